"""Frame counts of causal codecs: the first latent frame holds one frame, the others `stride` each.

NumPy only, shared with the PyTorch code.
"""

import numpy as np

from ttm_jax.errors import InputError


def check_frame_count(num_frames: int, stride: int) -> None:
  """Raise InputError unless `num_frames` is stride * n + 1; the message has the nearest counts."""
  if num_frames < 1 or (num_frames - 1) % stride:
    below = max(num_frames - 1, 0) // stride * stride + 1
    nearest = f'{below} or {below + stride}' if num_frames > 0 else '1'
    raise InputError(
      f'{num_frames} frames do not fit the codec, which takes {stride} n + 1 frames: use {nearest}'
    )


def groups_of(num_frames: int, stride: int) -> np.ndarray:
  """Return the index of the latent frame of each frame: int [T], 0 for frame 0.

  Args:
    num_frames: T, the number of frames.
    stride: frames per latent frame after the first.

  Raises:
    InputError: T is not stride * n + 1. The message names the nearest counts.
  """
  check_frame_count(num_frames, stride)
  return (np.arange(num_frames) + stride - 1) // stride


def frames_of(latents: int, stride: int) -> int:
  """Return the number of frames that encode to a number of latent frames (at least 1)."""
  return (latents - 1) * stride + 1
