"""The codec interface: a video autoencoder that maps pixels to normalized latents and back.

Each codec normalizes its own latents to about zero mean and unit variance, so other code needs no
scaling factor. Pixels are float32 in [-1, 1].
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
  """A diagonal Gaussian over the latents of a batch of videos.

  Attributes:
    mean: float [B, T', H', W', C].
    logvar: natural logarithm of the variance, same shape as `mean`; None for a deterministic codec.
  """

  mean: Array
  logvar: Array | None = None

  def sample(self, key: Array) -> Array:
    """Return a sample of the latents, same shape and dtype as `mean`.

    Args:
      key: JAX random key; unused if the codec is deterministic.
    """
    if self.logvar is None:
      return self.mean
    noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
    return self.mean + jnp.exp(0.5 * self.logvar) * noise


class Codec(Protocol):
  """A video autoencoder.

  A codec is a pytree of its weights. Pass it to jitted functions as an argument: the weights are
  then inputs of the compiled program, not constants in it.
  """

  @property
  def channels(self) -> int:
    """Number of latent channels C."""
    ...

  @property
  def stride(self) -> tuple[int, int]:
    """Spatial downsampling: pixels per latent along (height, width)."""
    ...

  def num_frames(self, latents: int) -> int:
    """Return the largest number of pixel frames that encode to `latents` latent frames."""
    ...

  def frame_groups(self, num_frames: int) -> np.ndarray:
    """Return the index of the latent frame of each pixel frame: int [T], non-decreasing from 0.

    Raises:
      InputError: the codec cannot encode this number of frames. Some codecs accept only certain
        numbers, such as 4 n + 1; the message names the nearest.
    """
    ...

  def encode(self, video: Array) -> Moments:
    """Encode a video to normalized latents.

    Args:
      video: float32 [B, T, H, W, 3] in [-1, 1]; T = 1 is an image.

    Returns:
      Moments of shape [B, T', H', W', C].

    Raises:
      InputError: the shape is wrong, H or W is not a multiple of `stride`, or the codec cannot
        encode T frames (see `frame_groups`).
    """
    ...

  def decode(self, latents: Array, num_frames: int) -> Array:
    """Decode normalized latents to a video.

    Args:
      latents: float [B, T', H', W', C].
      num_frames: number of pixel frames to return.

    Returns:
      float32 [B, num_frames, H, W, 3] in [-1, 1].

    Raises:
      ValueError: T' does not match `num_frames`.
    """
    ...


def check_pixels(video: Array, stride: tuple[int, int]) -> None:
  """Check the shape of a video that is to be encoded.

  Args:
    video: [B, T, H, W, 3].
    stride: pixels per latent along (height, width).

  Raises:
    InputError: the shape is not [B, T >= 1, H, W, 3], or H or W is not a multiple of the stride.
  """
  if video.ndim != 5 or video.shape[-1] != 3 or not video.shape[1]:
    raise InputError(f'a codec needs video [B, T, H, W, 3] with T >= 1, got {video.shape}')
  for name, size, step in zip(('height', 'width'), video.shape[2:4], stride, strict=True):
    if size % step:
      raise InputError(
        f'frame {name} {size} is not a multiple of the codec stride {step}: resize or crop it'
      )


def check_frames(latents: Array, num_frames: int, stride: int) -> None:
  """Check that latents have the number of frames that `num_frames` pixel frames encode to.

  Args:
    latents: [B, T', ...].
    num_frames: number of pixel frames T.
    stride: pixel frames per latent frame.

  Raises:
    ValueError: T' is not ceil(num_frames / stride), or `num_frames` is below 1.
  """
  if num_frames < 1 or latents.shape[1] != -(-num_frames // stride):
    raise ValueError(
      f'{latents.shape[1]} latent frames of {stride} are not those of {num_frames} frames'
    )


def to_float(video: np.ndarray) -> np.ndarray:
  """Convert uint8 pixels to float32 in [-1, 1]; the shape is unchanged."""
  return np.asarray(video, np.float32) / 127.5 - 1


def to_uint8(video) -> np.ndarray:
  """Convert float pixels to a uint8 NumPy array of the same shape; clip values to [-1, 1]."""
  return np.clip(np.round((np.asarray(video, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
