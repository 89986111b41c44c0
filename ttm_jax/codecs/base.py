"""What every codec (video autoencoder) offers: pixels <-> normalised latents, and frame grouping.

Latents are normalised (about zero mean, unit variance) by the codec itself, so that nothing else
knows a scale. Pixels are float32 in [-1, 1].
"""

from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax.errors import InputError

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

  A codec is a pytree of its weights: a jitted function takes it as an argument like any array, so
  that the weights are no constants of the compiled program.
  """

  @property
  def channels(self) -> int:
    """C of the latents."""
    ...

  @property
  def stride(self) -> tuple[int, int]:
    """Pixels a latent covers, along (height, width)."""
    ...

  def frame_groups(self, num_frames: int) -> np.ndarray:
    """The latent frame that holds each pixel frame: int [T], non-decreasing from 0."""
    ...

  def encode(self, video: Array) -> Moments:
    """Float32 [B, T, H, W, 3] in [-1, 1] to normalised latents; T = 1 is a still picture."""
    ...

  def decode(self, latents: Array, num_frames: int) -> Array:
    """Normalised latents [B, T', H', W', C] to float32 [B, num_frames, H, W, 3] in [-1, 1]."""
    ...


def check_pixels(video: Array, stride: tuple[int, int]) -> None:
  """Raises InputError unless a video [B, T, H, W, 3] has frames and divides into latents."""
  if video.ndim != 5 or video.shape[-1] != 3 or not video.shape[1]:
    raise InputError(f'a codec needs video [B, T, H, W, 3] with T >= 1, got {video.shape}')
  for name, size, step in zip(('height', 'width'), video.shape[2:4], stride, strict=True):
    if size % step:
      raise InputError(
        f'frame {name} {size} is no multiple of the codec stride {step}: resize or crop the video'
      )


def check_frames(latents: Array, num_frames: int, stride: int) -> None:
  """Raises ValueError unless latents [B, T', ...] are those of num_frames pixel frames.

  Args:
    stride: pixel frames a latent frame covers.
  """
  if num_frames < 1 or latents.shape[1] != -(-num_frames // stride):
    raise ValueError(
      f'{latents.shape[1]} latent frames of {stride} are not those of {num_frames} frames'
    )


def to_float(video: np.ndarray) -> np.ndarray:
  """uint8 pixels to float32 in [-1, 1]."""
  return np.asarray(video, np.float32) / 127.5 - 1


def to_uint8(video) -> np.ndarray:
  """Float pixels in [-1, 1] (clipped) to uint8, on the host."""
  return np.clip(np.round((np.asarray(video, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
