"""The video autoencoders of Wan 2.1 and 2.2 in diffusers, with normalized latents."""

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from ttm_jax.codecs.causal_frames import check_frame_count, frames_of, groups_of

from .codec_base import Decoded, Encoded, check_pixels, encoded


class TTMWanCodec(AutoencoderKLWan):
  """A codec (see `codec_base`) with the weights and configuration of `AutoencoderKLWan`.

  It takes 4 n + 1 frames: the first latent frame holds frame 0, each other one 4 frames.
  """

  @property
  def stride(self) -> tuple[int, int, int]:
    """Pixels per latent along (time, height, width)."""
    side = (self.config.patch_size or 1) * 2 ** (len(self.config.dim_mult) - 1)
    return 4, side, side

  def frame_groups(self, num_frames: int) -> np.ndarray:
    """Return the latent frame of each frame, int [T], see `codec_base`.

    Raises:
      InputError: if T is not 4 n + 1.
    """
    return groups_of(num_frames, self.stride[0])

  def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of raw latents, float32 [C, 1, 1, 1]."""
    rows = torch.tensor([self.config.latents_mean, self.config.latents_std], device=like.device)
    mean, std = rows[..., None, None, None]
    return mean, std

  @apply_forward_hook
  def encode(self, video: Tensor) -> Encoded:
    """Encode a video float [B, 3, T, H, W] in [-1, 1], see `codec_base`.

    Raises:
      InputError: if H or W is not a multiple of the stride, or T is not 4 n + 1.
    """
    check_pixels(video, self.stride)
    check_frame_count(video.shape[2], self.stride[0])
    raw = super().encode(video.to(self.dtype)).latent_dist.parameters.float()
    mean, logvar = raw.chunk(2, 1)
    shift, scale = self._statistics(raw)
    return encoded((mean - shift) / scale, logvar.clamp(-30, 20) - 2 * scale.log())

  @apply_forward_hook
  def decode(self, latents: Tensor, num_frames: int | None = None) -> Decoded:
    """Decode latents [B, C, T', H', W'] to float32 [B, 3, T, H, W] in [-1, 1], see `codec_base`.

    Raises:
      ValueError: if num_frames is given and is not 4 T' - 3.
    """
    held = frames_of(latents.shape[2], self.stride[0])
    if num_frames not in (None, held):
      raise ValueError(
        f'{latents.shape[2]} latent frames are those of {held} frames, not of {num_frames}'
      )
    shift, scale = self._statistics(latents)
    raw = (latents.float() * scale + shift).to(self.dtype)
    return Decoded(sample=super().decode(raw).sample.float())
