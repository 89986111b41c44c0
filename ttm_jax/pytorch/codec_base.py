"""The interface of the video codecs, as in diffusers: pixels <-> normalized latents.

    encode(video).latent_dist.mode()            video float32 [B, 3, T, H, W] in [-1, 1] ->
                                                latents [B, C, T', H', W']
    decode(latents, num_frames).sample          latents -> video, clipped to [-1, 1]
    frame_groups(num_frames)                    latent frame of each frame, int [T]; an InputError
                                                if the codec does not take this number of frames
    stride                                      pixels per latent along (time, height, width)

The codec normalizes latents itself, to about zero mean and unit variance: there is no scaling
factor to apply. An image is a video of T = 1. `num_frames` is the number of frames to decode; the
default is all frames that the latents can hold.
"""

from typing import TypeAlias

import torch
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from ttm_jax.errors import InputError

Encoded: TypeAlias = AutoencoderKLOutput
Decoded: TypeAlias = DecoderOutput


def encoded(mean: Tensor, logvar: Tensor | None) -> Encoded:
  """Return the distribution of latents as `encode` does.

  Args:
    mean: [B, C, T', H', W'].
    logvar: log variance, like mean; None if the codec is deterministic.
  """
  certain = logvar is None
  moments = torch.cat([mean, torch.zeros_like(mean) if logvar is None else logvar], 1)
  return Encoded(latent_dist=DiagonalGaussianDistribution(moments, deterministic=certain))


def continued(video: Tensor, stride: int) -> Tensor:
  """Pad a video [B, C, T, ...] with copies of its last frame to a multiple of `stride` frames."""
  missing = -video.shape[2] % stride
  return torch.cat([video, video[:, :, -1:].repeat_interleave(missing, 2)], 2) if missing else video


def check_pixels(video: Tensor, stride: tuple[int, int, int]) -> None:
  """Check that a video [B, 3, T, H, W] can be encoded.

  Args:
    video: the video.
    stride: pixels per latent along (time, height, width).

  Raises:
    InputError: if the shape differs, T is 0, or height or width is not a multiple of its stride.
  """
  if video.ndim != 5 or video.shape[1] != 3 or not video.shape[2]:
    raise InputError(f'a codec needs video [B, 3, T, H, W] with T >= 1, got {tuple(video.shape)}')
  for name, size, step in zip(('height', 'width'), video.shape[3:], stride[1:], strict=True):
    if size % step:
      raise InputError(
        f'frame {name} {size} is not a multiple of the codec stride {step}: resize or crop it'
      )


def check_frames(latents: Tensor, num_frames: int | None, stride: int) -> int:
  """Return the number of frames to decode from latents [B, C, T', ...].

  Args:
    latents: the latents.
    num_frames: frames to decode; None for T' * stride.
    stride: frames per latent.

  Raises:
    ValueError: if num_frames is below 1, or ceil(num_frames / stride) is not T'.
  """
  if num_frames is None:
    return latents.shape[2] * stride
  if num_frames < 1 or latents.shape[2] != -(-num_frames // stride):
    raise ValueError(
      f'{latents.shape[2]} latent frames of {stride} are not those of {num_frames} frames'
    )
  return num_frames
