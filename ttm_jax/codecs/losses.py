"""Losses of a video autoencoder: reconstruction, KL divergence, and a penalty for outlier latents.

The adversarial losses are in `discriminator`. Sources: the temporal autoencoder of Movie Gen
(Polyak et al. 2024) for the terms, latent diffusion (Rombach et al. 2022) for their scale.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ttm_jax.codecs.base import Moments

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LossWeights:
  """Loss weights relative to the absolute error, whose weight is 1.

  They use the convention of the sources, in which errors are summed over the values of a frame.

  Attributes:
    perceptual: weight of the perceptual distance.
    kl: weight of the KL divergence.
    outlier: weight of the outlier penalty.
    squared: weight of the squared error, which the sources do not have. Rendered trajectories are
      mostly black, and the absolute error alone can keep small networks predicting only black for
      long. A weight of 5 avoids that.
  """

  perceptual: float = 1.0
  kl: float = 1e-6
  outlier: float = 1e5
  squared: float = 0.0


def absolute_error(video: Array, reconstruction: Array) -> Array:
  """Return the mean absolute difference, a scalar, of two float arrays [B, T, H, W, 3]."""
  return jnp.abs(video - reconstruction).mean()


def kl_divergence(posterior: Moments) -> Array:
  """Return the KL divergence of a diagonal Gaussian posterior from N(0, 1).

  Args:
    posterior: mean and logvar, float [B, T', H', W', C].

  Returns:
    Scalar in nats: summed over the latents of a video, averaged over B.

  Raises:
    ValueError: the posterior is deterministic (`logvar` is None).
  """
  if posterior.logvar is None:
    raise ValueError('the KL divergence needs a posterior with a variance')
  mean, logvar = posterior.mean, posterior.logvar
  nats = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar)
  return nats.sum() / mean.shape[0]


def outlier_penalty(latents: Array, radius: float = 3.0) -> Array:
  """Return the outlier penalty loss of Movie Gen (Polyak et al. 2024).

  Without it, an autoencoder may store the content of a frame in a few extreme latents, which appear
  as spots in generated videos. For a frame X with X_ij in R^C the penalty is the mean over ij of
  `max(|X_ij - mean(X)| - radius |std(X)|, 0)`. Mean and standard deviation are per channel over the
  pixels of the frame; the norms are over channels.

  Args:
    latents: float [B, T', H', W', C].
    radius: distance from the mean, in standard deviations, below which there is no penalty.

  Returns:
    Scalar, the mean over frames.
  """
  centered = latents - latents.mean((2, 3), keepdims=True)
  squared = jnp.square(centered)

  def root(values):  # The gradient of sqrt is infinite at 0, which a constant frame reaches.
    return jnp.sqrt(jnp.maximum(values, 1e-12))

  distance = root(squared.sum(-1))
  spread = root(squared.mean((2, 3), keepdims=True).sum(-1))
  return jnp.maximum(distance - radius * spread, 0).mean()


def label_error(
  trajectory: Array, reconstruction: Array, colors: Array, temperature: float = 0.25
) -> Array:
  """Return the cross-entropy of the labels of rendered trajectories.

  A pixel's label is that of the nearest color. What blurs an edge without moving it costs little
  here, and a pixel on the wrong side of it costs much; the squared error counts both alike.

  Args:
    trajectory, reconstruction: float32 [B, T, H, W, 3] in [-1, 1].
    colors: of all labels, float32 [n, 3] in [-1, 1].
    temperature: squared distance to a color by which its logit falls by 1. At 0.25, black and
      another color of `spread8` are at least 16 apart, two of its other colors nearly 4.

  Returns:
    Scalar in nats, the mean over pixels.
  """

  def logits(pixels):  # Squared distances, without a term that all colors share.
    return (2 * pixels @ colors.T - jnp.square(colors).sum(-1)) / temperature

  labels = logits(trajectory).argmax(-1)
  surprise = -jax.nn.log_softmax(logits(reconstruction))
  return jnp.take_along_axis(surprise, labels[..., None], axis=-1).mean()


def autoencoder_loss(
  video: Array,
  reconstruction: Array,
  posterior: Moments,
  latents: Array,
  weights: LossWeights = LossWeights(),
  perceptual: Callable[[Array, Array], Array] | None = None,
) -> tuple[Array, dict[str, Array]]:
  """Return the loss of a video autoencoder without its adversarial term.

  It is the loss of the sources divided by the number of values of a frame (3 H W). The division
  keeps it of order one at any resolution and does not change the minimizer.

  Args:
    video, reconstruction: float32 [B, T, H, W, 3] in [-1, 1].
    posterior: moments of the latents before normalization.
    latents: the sample that was decoded, float [B, T', H', W', C].
    weights: weights of the terms.
    perceptual: distance between frames, two arrays [..., H, W, 3] -> [...], such as `Perceptual`;
      None omits the term.

  Returns:
    The scalar loss, and its unweighted terms by name.

  Raises:
    ValueError: the posterior is deterministic.
  """
  values = video[0, 0].size
  terms = {
    'absolute': absolute_error(video, reconstruction),
    'squared': jnp.square(video - reconstruction).mean(),
    'kl': kl_divergence(posterior),
    'outlier': outlier_penalty(latents),
  }
  loss = (
    terms['absolute']
    + weights.squared * terms['squared']
    + weights.kl * terms['kl'] / (values * video.shape[1])
    + weights.outlier * terms['outlier'] / values
  )
  if perceptual is not None:
    terms['perceptual'] = perceptual(video, reconstruction).mean()
    loss += weights.perceptual * terms['perceptual']
  return loss, terms
