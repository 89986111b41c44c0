"""The linear codec: principal components of space-time patches."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .codec_base import Decoded, Encoded, check_frames, check_pixels, continued, encoded
from .model import Model


class TTMLinearCodec(Model):
  """A codec (see `codec_base`) that projects pixel patches onto their C principal components.

  A patch has (st, sh, sw) pixels. A clip whose length is not a multiple of st is padded with copies
  of its last frame. An image is a clip of one frame. A lapped codec first mixes the pixels on both
  sides of every border between patches by an orthogonal matrix, so that patches overlap.
  """

  FLOAT32 = ('basis', 'mean', 'scale')

  @register_to_config
  def __init__(
    self,
    patch: Sequence[int] = (2, 6, 6),
    channels: int = 32,
    explained: float = 0.0,
    psnr: float = 0.0,
    lapped: bool = False,
  ):
    """Initialize the codec with zeros; the values are loaded.

    Args:
      patch: pixels per latent along (time, height, width).
      channels: C, channels of the latents.
      explained, psnr: explained variance (0..1) and PSNR (dB) on the data the codec was fitted to;
        kept for information only.
      lapped: whether neighboring patches of a frame overlap by half their sides.
    """
    super().__init__()
    size = 3 * math.prod(patch)

    def constant(*shape: int) -> nn.Parameter:
      return nn.Parameter(torch.zeros(shape), requires_grad=False)

    # basis: orthonormal columns; mean: the mean patch, flattened from (st, sh, sw, 3); scale: the
    # factor from projections in pixel units to normalized latents.
    self.basis, self.mean, self.scale = constant(size, channels), constant(size), constant()

  @property
  def stride(self) -> tuple[int, int, int]:
    """Pixels per latent along (time, height, width)."""
    st, sh, sw = self.config.patch
    return st, sh, sw

  def frame_groups(self, num_frames: int) -> np.ndarray:
    """Return the latent frame of each frame, int [T], see `codec_base`."""
    return np.arange(num_frames) // self.stride[0]

  @apply_forward_hook  # Moves the codec to the GPU if the pipeline offloads models.
  def encode(self, video: Tensor) -> Encoded:
    """Encode a video float [B, 3, T, H, W] in [-1, 1], see `codec_base`.

    Raises:
      InputError: if H or W is not a multiple of the stride, or T is 0.
    """
    check_pixels(video, self.stride)
    st, sh, sw = self.stride
    video = continued(video.float(), st)
    if self.config.lapped:
      video = self._fold(video)
    b, c, t, height, width = video.shape
    cells = video.reshape(b, c, t // st, st, height // sh, sh, width // sw, sw)
    patches = cells.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)
    latents = (patches - self.mean.float()) @ self.basis.float() * self.scale.float()
    return encoded(latents.permute(0, 4, 1, 2, 3), None)

  @apply_forward_hook
  def decode(self, latents: Tensor, num_frames: int | None = None) -> Decoded:
    """Decode latents [B, C, T', H', W'] to float32 [B, 3, T, H, W] in [-1, 1], see `codec_base`.

    Raises:
      ValueError: if the latents do not hold num_frames frames.
    """
    st, sh, sw = self.stride
    num_frames = check_frames(latents, num_frames, st)
    rows = latents.float().permute(0, 2, 3, 4, 1) / self.scale.float()
    patches = rows @ self.basis.float().T + self.mean.float()
    b, t, height, width, _ = patches.shape
    pixels = patches.reshape(b, t, height, width, st, sh, sw, 3).permute(0, 7, 1, 4, 2, 5, 3, 6)
    video = pixels.reshape(b, 3, t * st, height * sh, width * sw)
    if self.config.lapped:
      video = self._fold(video, inverse=True)
    return Decoded(sample=video[:, :, :num_frames].clamp(-1, 1))

  def _fold(self, video: Tensor, inverse: bool = False) -> Tensor:
    """Mix the pixels of a video [B, 3, T, H, W] around the borders of patches, or undo it."""
    for axis, size in ((3, self.stride[1]), (4, self.stride[2])):
      matrix = _folding(size).to(video)
      matrix = matrix.T if inverse else matrix
      lines = video.movedim(axis, -1)
      half = size // 2
      inner = lines[..., half : lines.shape[-1] - half]
      mixed = (inner.unflatten(-1, (-1, size)) @ matrix.T).flatten(-2)
      lines = torch.cat([lines[..., :half], mixed, lines[..., lines.shape[-1] - half :]], -1)
      video = lines.movedim(-1, axis)
    return video


def _folding(size: int) -> Tensor:
  """Return the orthogonal matrix that mixes the pixels around a border, float32 [size, size].

  Pixels at equal distance from the border, i + 1/2, are rotated by 45 degrees at the border down to
  0 half a patch away (a sine window; Malvar, "Signal Processing with Lapped Transforms", 1992).
  """
  half = size // 2
  distance = torch.arange(half)
  angle = math.pi / 4 * (1 - (distance + 0.5) / half)
  after, before = half + distance, half - 1 - distance
  matrix = torch.zeros(size, size)
  matrix[after, after] = matrix[before, before] = angle.cos()
  matrix[after, before], matrix[before, after] = -angle.sin(), angle.sin()
  return matrix
