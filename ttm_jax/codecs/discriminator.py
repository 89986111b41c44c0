"""A patch discriminator for video, and the adversarial losses of an autoencoder.

Both losses are terms of one sum, so one backward pass and one optimizer train both networks:

    loss = autoencoder + weight * generator_loss(d, fake) + discriminator_loss(d, real, fake)

`generator_loss` stops the gradient to the discriminator, `discriminator_loss` the gradient to the
reconstruction. An optimizer with per-weight scaling, such as Adam, then gives the same updates as
two separate optimizers. Clip the gradients of the two networks separately.

Sources: hinge losses of Lim and Ye 2017, patch discriminator of Isola et al. 2017.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.codecs.inflated import FrameNorm, VideoConv

Array = jax.Array


class Discriminator(nnx.Module):
  """A convolutional network with one real/fake logit per patch of each frame.

  Temporal convolutions let a logit depend on neighboring frames.

  Args:
    base_channels: width of the first layer. Each layer doubles it, up to 8 times the first.
    layers: number of layers, each of which halves height and width.
    dtype: compute dtype; parameters and logits are float32.
    rngs: random number generators for the initial parameters.
  """

  def __init__(
    self, base_channels: int = 64, layers: int = 3, *, dtype: str = 'float32', rngs: nnx.Rngs
  ):
    compute = jnp.dtype(dtype)
    widths = [base_channels * min(2**i, 8) for i in range(layers)]
    self.convs = nnx.List(
      VideoConv(d_in, d_out, stride=(1, 2), dtype=compute, rngs=rngs)
      for d_in, d_out in zip([3, *widths], widths, strict=False)
    )
    self.norms = nnx.List(FrameNorm(width, dtype=compute) for width in widths[1:])
    self.head = VideoConv(widths[-1], 1, dtype=compute, rngs=rngs)

  def __call__(self, video: Array) -> Array:
    """Return float32 logits [B, T, h, w], positive for real, of a video [B, T, H, W, 3].

    Args:
      video: float, pixels in [-1, 1].
    """
    x = jax.nn.leaky_relu(self.convs[0](video), 0.2)
    for conv, norm in zip(list(self.convs)[1:], self.norms, strict=True):
      x = jax.nn.leaky_relu(norm(conv(x)), 0.2)
    return self.head(x)[..., 0].astype(jnp.float32)


def generator_loss(discriminator: Discriminator, fake: Array) -> Array:
  """Return the adversarial loss of the autoencoder, with no gradient to the discriminator.

  Args:
    discriminator: the network that scores reconstructions.
    fake: reconstructions, float [B, T, H, W, 3] in [-1, 1].

  Returns:
    Scalar, the negative mean logit.
  """
  still = jax.tree.map(jax.lax.stop_gradient, discriminator)
  return -still(fake).mean()


def discriminator_loss(discriminator: Discriminator, real: Array, fake: Array) -> Array:
  """Return the hinge loss of the discriminator, with no gradient to the autoencoder.

  Args:
    discriminator: the network to train.
    real: videos, float [B, T, H, W, 3] in [-1, 1].
    fake: their reconstructions, same shape.

  Returns:
    Scalar, 0.5 * (mean relu(1 - D(real)) + mean relu(1 + D(fake))).
  """
  fake = jax.lax.stop_gradient(fake)
  of_real = jax.nn.relu(1 - discriminator(real)).mean()
  of_fake = jax.nn.relu(1 + discriminator(fake)).mean()
  return 0.5 * (of_real + of_fake)
