"""What the video autoencoders offer, in the form of diffusers: pixels <-> normalised latents.

    encode(video).latent_dist.mode()            float32 [B, 3, T, H, W] in [-1, 1] to
                                                latents [B, C, T', H', W'], T' = ceil(T / st)
    decode(latents, num_frames).sample          and back, clipped to [-1, 1]

Latents are normalised (about zero mean, unit variance) by the codec itself: there is no scaling
factor to apply. T = 1 is a still picture. `num_frames` says how many frames the last latents stand
for, by default all that they could.
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
  """The distribution of latents; logvar None where the codec is deterministic."""
  certain = logvar is None
  moments = torch.cat([mean, torch.zeros_like(mean) if logvar is None else logvar], 1)
  return Encoded(latent_dist=DiagonalGaussianDistribution(moments, deterministic=certain))


def continued(video: Tensor, stride: int) -> Tensor:
  """[B, C, T, ...] continued by its last frame to a multiple of `stride` frames."""
  missing = -video.shape[2] % stride
  return torch.cat([video, video[:, :, -1:].repeat_interleave(missing, 2)], 2) if missing else video


def check_pixels(video: Tensor, stride: tuple[int, int, int]) -> None:
  """Raises InputError unless a video [B, 3, T, H, W] has frames and divides into latents."""
  if video.ndim != 5 or video.shape[1] != 3 or not video.shape[2]:
    raise InputError(f'a codec needs video [B, 3, T, H, W] with T >= 1, got {tuple(video.shape)}')
  for name, size, step in zip(('height', 'width'), video.shape[3:], stride[1:], strict=True):
    if size % step:
      raise InputError(
        f'frame {name} {size} is no multiple of the codec stride {step}: resize or crop the video'
      )


def check_frames(latents: Tensor, num_frames: int | None, stride: int) -> int:
  """How many frames latents [B, C, T', ...] stand for.

  Raises:
    ValueError: unless they can stand for num_frames, where given.
  """
  if num_frames is None:
    return latents.shape[2] * stride
  if num_frames < 1 or latents.shape[2] != -(-num_frames // stride):
    raise ValueError(
      f'{latents.shape[2]} latent frames of {stride} are not those of {num_frames} frames'
    )
  return num_frames
