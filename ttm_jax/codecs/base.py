"""What every codec (video autoencoder) offers: pixels <-> normalised latents, and frame grouping.

Latents are normalised (about zero mean, unit variance) by the codec itself, so that nothing else
knows a scale. Pixels are float32 in [-1, 1].
"""

from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@flax.struct.dataclass
class Moments:
  """The distribution of the latents of one video.

  Attributes:
    mean: float [B, T', H', W', C].
    logvar: like mean, natural logarithm of the variance; None where the codec is deterministic.
  """

  mean: Array
  logvar: Array | None = None

  def sample(self, key: Array) -> Array:
    """A draw of the latents, like mean."""
    if self.logvar is None:
      return self.mean
    noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
    return self.mean + jnp.exp(0.5 * self.logvar) * noise


class Codec(Protocol):
  """A video autoencoder.

  Attributes:
    channels: C of the latents.
    stride: pixels a latent covers, along (height, width).
  """

  channels: int
  stride: tuple[int, int]

  def frame_groups(self, num_frames: int) -> np.ndarray:
    """The latent frame that holds each pixel frame: int [T], non-decreasing from 0."""
    ...

  def encode(self, video: Array) -> Moments:
    """Float32 [B, T, H, W, 3] in [-1, 1] to normalised latents; T = 1 is a still picture."""
    ...

  def decode(self, latents: Array, num_frames: int) -> Array:
    """Normalised latents [B, T', H', W', C] to float32 [B, num_frames, H, W, 3] in [-1, 1]."""
    ...


def to_float(video: np.ndarray) -> np.ndarray:
  """uint8 pixels to float32 in [-1, 1]."""
  return np.asarray(video, np.float32) / 127.5 - 1


def to_uint8(video) -> np.ndarray:
  """Float pixels in [-1, 1] (clipped) to uint8, on the host."""
  return np.clip(np.round((np.asarray(video, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
