"""The autoencoder of Stable Diffusion 1.5, of diffusers, applied to each frame of a video."""

import torch
from diffusers import AutoencoderKL
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from .codec_base import Decoded, Encoded, check_frames, check_pixels, encoded


class TTMImageCodec(AutoencoderKL):
  """`AutoencoderKL`, its weights and configuration, with the interface of `codec_base`."""

  @property
  def stride(self) -> tuple[int, int, int]:
    """Pixels a latent covers, along (time, height, width)."""
    side = 2 ** (len(self.config.block_out_channels) - 1)
    return 1, side, side

  @apply_forward_hook
  def encode(self, video: Tensor) -> Encoded:
    """See `codec_base`."""
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
    """See `codec_base`."""
    check_frames(latents, num_frames, 1)
    frames = (latents / self.config.scaling_factor).transpose(1, 2).flatten(0, 1).to(self.dtype)
    video = super().decode(frames).sample.float().clamp(-1, 1)
    return Decoded(sample=video.unflatten(0, (len(latents), -1)).transpose(1, 2))
