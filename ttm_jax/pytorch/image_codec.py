"""The Stable Diffusion 1.5 autoencoder of diffusers, applied to each frame of a video."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from .codec_base import Decoded, Encoded, check_frames, check_pixels, encoded


class TTMImageCodec(AutoencoderKL):
  """A codec (see `codec_base`) with the weights and configuration of `AutoencoderKL`."""

  @property
  def stride(self) -> tuple[int, int, int]:
    """Pixels per latent along (time, height, width)."""
    side = 2 ** (len(self.config.block_out_channels) - 1)
    return 1, side, side

  def frame_groups(self, num_frames: int) -> np.ndarray:
    """Return the latent frame of each frame, int [T], see `codec_base`."""
    return np.arange(num_frames) // self.stride[0]

  @apply_forward_hook
  def encode(self, video: Tensor) -> Encoded:
    """Encode a video float [B, 3, T, H, W] in [-1, 1], see `codec_base`.

    Raises:
      InputError: if H or W is not a multiple of the stride, or T is 0.
    """
    check_pixels(video, self.stride)
    frames = video.transpose(1, 2).flatten(0, 1).to(self.dtype)
    mean, logvar = super().encode(frames).latent_dist.parameters.float().chunk(2, 1)
    scale = self.config.scaling_factor
    logvar = logvar.clamp(-30, 20) + 2 * torch.log(torch.tensor(scale))
    return encoded(
      *(x.unflatten(0, (len(video), -1)).transpose(1, 2) for x in (mean * scale, logvar))
    )

  @apply_forward_hook
  def decode(self, latents: Tensor, num_frames: int | None = None) -> Decoded:
    """Decode latents [B, C, T, H', W'] to float32 [B, 3, T, H, W] in [-1, 1], see `codec_base`.

    Raises:
      ValueError: if num_frames is given and is not T.
    """
    check_frames(latents, num_frames, 1)
    frames = (latents / self.config.scaling_factor).transpose(1, 2).flatten(0, 1).to(self.dtype)
    video = super().decode(frames).sample.float().clamp(-1, 1)
    return Decoded(sample=video.unflatten(0, (len(latents), -1)).transpose(1, 2))
