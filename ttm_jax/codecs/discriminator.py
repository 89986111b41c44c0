"""A patch discriminator for video, and the adversarial losses of an autoencoder.

Both losses stand in one sum, so that one backward pass and one optimiser serve both networks:

    loss = autoencoder + weight * generator_loss(d, fake) + discriminator_loss(d, real, fake)

The first holds the discriminator still, the second the reconstruction. An optimiser that rescales
each weight's gradient by itself, as Adam does, trains both as two would; clip their gradients
apart. Source: hinge losses of Lim and Ye 2017, patches of Isola et al. 2017.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.codecs.inflated import FrameNorm, VideoConv

Array = jax.Array


class Discriminator(nnx.Module):
  """Judges each patch of each frame, in the light of the frames around it.

  Args:
    base_channels: width of the first layer; each further one is twice as wide, to 8 times.
    layers: halvings of height and width.
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
    """Float [B, T, H, W, 3] in [-1, 1] to float32 logits [B, T, h, w]; real ones are positive."""
    x = jax.nn.leaky_relu(self.convs[0](video), 0.2)
    for conv, norm in zip(list(self.convs)[1:], self.norms, strict=True):
      x = jax.nn.leaky_relu(norm(conv(x)), 0.2)
    return self.head(x)[..., 0].astype(jnp.float32)


def generator_loss(discriminator: Discriminator, fake: Array) -> Array:
  """What the autoencoder wants: to be taken for real. No gradient reaches the discriminator."""
  still = jax.tree.map(jax.lax.stop_gradient, discriminator)
  return -still(fake).mean()


def discriminator_loss(discriminator: Discriminator, real: Array, fake: Array) -> Array:
  """Hinge loss on videos and reconstructions of them. No gradient reaches the autoencoder."""
  fake = jax.lax.stop_gradient(fake)
  of_real = jax.nn.relu(1 - discriminator(real)).mean()
  of_fake = jax.nn.relu(1 + discriminator(fake)).mean()
  return 0.5 * (of_real + of_fake)
