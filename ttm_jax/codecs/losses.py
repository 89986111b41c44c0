"""What a video autoencoder is trained on: reconstruction, a light prior, and no outliers.

The adversarial terms stand in `discriminator`. Sources: the temporal autoencoder of Movie Gen
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
  """Weights beside the absolute error, in the sources' scale (sums over the values of a frame).

  The squared error is not of the sources. Where most pixels are black, as in renderings of
  trajectories, the absolute error alone is long content with black; 5 helps small networks over
  that.
  """

  perceptual: float = 1.0
  kl: float = 1e-6
  outlier: float = 1e5
  squared: float = 0.0


def absolute_error(video: Array, reconstruction: Array) -> Array:
  """Mean absolute difference; both float [B, T, H, W, 3]. Returns a scalar."""
  return jnp.abs(video - reconstruction).mean()


def kl_divergence(posterior: Moments) -> Array:
  """Of the posterior from N(0, 1), in nats: sum over the latents of a video, mean over B.

  Raises:
    ValueError: if the posterior is a point, which has no divergence.
  """
  if posterior.logvar is None:
    raise ValueError('the KL divergence needs a posterior with a variance')
  mean, logvar = posterior.mean, posterior.logvar
  nats = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar)
  return nats.sum() / mean.shape[0]


def outlier_penalty(latents: Array, radius: float = 3.0) -> Array:
  """How far latents stick out of their frame: the outlier penalty loss of Movie Gen.

  Without it an autoencoder may keep the content of a frame in a few extreme latents, which
  generated videos show as spots. For a frame X with X_ij in R^C it is the mean over ij of
  `max(|X_ij - mean(X)| - radius |std(X)|, 0)`; mean and standard deviation are of each channel
  over the frame, the norms over channels.

  Args:
    latents: [B, T', H', W', C].

  Returns:
    A scalar, the mean over frames.
  """
  centred = latents - latents.mean((2, 3), keepdims=True)
  squared = jnp.square(centred)

  def root(values):  # It has no finite slope at zero, where a constant frame lies.
    return jnp.sqrt(jnp.maximum(values, 1e-12))

  distance = root(squared.sum(-1))
  spread = root(squared.mean((2, 3), keepdims=True).sum(-1))
  return jnp.maximum(distance - radius * spread, 0).mean()


def autoencoder_loss(
  video: Array,
  reconstruction: Array,
  posterior: Moments,
  latents: Array,
  weights: LossWeights = LossWeights(),
  perceptual: Callable[[Array, Array], Array] | None = None,
) -> tuple[Array, dict[str, Array]]:
  """The sources' loss of a video autoencoder, divided by the values of a frame (3 H W).

  So divided it is of the order of one at any resolution, and its minimum is the same.

  Args:
    video, reconstruction: float32 [B, T, H, W, 3] in [-1, 1].
    posterior: raw moments of the latents.
    latents: the draw that was decoded [B, T', H', W', C].
    perceptual: distance of two frames [..., H, W, 3] -> [...], as `Perceptual`; None leaves it out.

  Returns:
    The loss, and its terms before weighting.
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
