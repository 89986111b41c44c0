"""The temporal autoencoder (TAE) of Movie Gen: an image autoencoder inflated to video.

Each 2-D convolution is followed by a 1-D convolution along time, and each spatial attention by a
temporal one ("2.5D"). Time is padded by repeating the first and the last frame, and there are no
temporal position embeddings. So a static video is processed like the image it repeats. Source:
Polyak et al. 2024 (Movie Gen, arXiv 2410.13720).

Activations are [B T, C, H, W], the layout of spatial layers; the number of samples B is passed
along for temporal layers. Matrix products run in the dtype of their weights, norms in float32.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn.functional import (
  conv2d,
  conv3d,
  group_norm,
  pad,
  scaled_dot_product_attention,
  silu,
)

from .codec_base import Decoded, Encoded, check_frames, check_pixels, continued, encoded
from .model import Model
from .tiling import blended, in_pieces

INITIAL_LOGVAR = -8.0  # Log variance of the latents before training; small beside their means.


def weights(*shape: int, zero: bool = False) -> nn.Parameter:
  """Return weights [out, in, ...]: zeros, or uniform values with variance 1 / fan_in.

  Outputs then have the variance of the inputs (LeCun uniform initialization).
  """
  values = torch.zeros(shape)
  if not zero:
    bound = math.sqrt(3 / math.prod(shape[1:]))
    values.uniform_(-bound, bound)
  return nn.Parameter(values)


class Pointwise(nn.Module):
  """A 1 x 1 convolution: a linear map of the channels of [B T, C, H, W].

  Args:
    d_in, d_out: channels of inputs and outputs.
    zero: whether the weights start at 0.
  """

  def __init__(self, d_in: int, d_out: int, zero: bool = False):
    super().__init__()
    self.weight = weights(d_out, d_in, zero=zero)
    self.bias = nn.Parameter(torch.zeros(d_out))

  def forward(self, x: Tensor) -> Tensor:
    """Map [B T, d_in, H, W] to [B T, d_out, H, W]."""
    return conv2d(x.to(self.weight.dtype), self.weight[..., None, None], self.bias)


class TemporalConv(nn.Module):
  """A 1-D convolution of width 3 along time, initialized to the identity.

  With stride 2 it has ceil(T / 2) outputs, centered on the frames 0, 2, 4, ...

  Args:
    channels: C of inputs and outputs.
    stride: stride in time, 1 or 2.
  """

  def __init__(self, channels: int, stride: int):
    super().__init__()
    self.weight = nn.Parameter(nn.init.dirac_(torch.zeros(channels, channels, 3)))
    self.bias = nn.Parameter(torch.zeros(channels))
    self.stride = stride

  def forward(self, x: Tensor, samples: int) -> Tensor:
    """Map [B T, C, H, W] to [B ceil(T / stride), C, H, W]; `samples` is B."""
    x = x.to(self.weight.dtype).unflatten(0, (samples, -1)).transpose(1, 2)  # b c t h w
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    x = conv3d(x, self.weight[..., None, None], self.bias, (self.stride, 1, 1))
    return x.transpose(1, 2).flatten(0, 1)


class Conv(nn.Module):
  """A 3 x 3 convolution in space, then a TemporalConv.

  Args:
    d_in, d_out: channels of inputs and outputs.
    stride: strides in (time, space). A spatial stride of 2 pads only at the bottom and on the
      right, as in Stable Diffusion.
    zero: whether the spatial weights start at 0.
    inflated: whether there is a temporal convolution; without it frames are independent.
  """

  def __init__(
    self,
    d_in: int,
    d_out: int,
    *,
    stride: tuple[int, int] = (1, 1),
    zero: bool = False,
    inflated: bool = True,
  ):
    super().__init__()
    self.weight = weights(d_out, d_in, 3, 3, zero=zero)
    self.bias = nn.Parameter(torch.zeros(d_out))
    self.temporal = TemporalConv(d_out, stride[0]) if inflated else None
    self.stride = stride[1]

  def in_space(self, x: Tensor) -> Tensor:
    """Apply the spatial convolution to [B T, C, H, W]."""
    before = int(self.stride == 1)
    x = pad(x.to(self.weight.dtype), (before, 1, before, 1))
    return conv2d(x, self.weight, self.bias, self.stride)

  def in_time(self, x: Tensor, samples: int) -> Tensor:
    """Apply the temporal convolution, if any, to [B T, C, H, W]; `samples` is B."""
    return x if self.temporal is None else self.temporal(x, samples)

  def forward(self, x: Tensor, samples: int) -> Tensor:
    """Apply both convolutions to [B T, C, H, W]; `samples` is B."""
    return self.in_time(self.in_space(x), samples)


class FrameNorm(nn.Module):
  """Group normalization of each frame: 32 groups; below 128 channels, groups of 4 channels.

  Statistics are float32.
  """

  def __init__(self, channels: int):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(channels))
    self.bias = nn.Parameter(torch.zeros(channels))
    self.groups = min(32, channels // 4)

  def forward(self, x: Tensor) -> Tensor:
    """Normalize [B T, C, H, W]; the result has the dtype of x."""
    y = group_norm(x.float(), self.groups, self.weight.float(), self.bias.float(), eps=1e-6)
    return y.to(x.dtype)


class ResBlock(nn.Module):
  """A residual block of two convolutions, each after a norm and SiLU.

  Args:
    d_in, d_out: channels of inputs and outputs; if they differ, the shortcut is a 1 x 1
      convolution.
    inflated: whether the convolutions have a temporal part.
  """

  def __init__(self, d_in: int, d_out: int, inflated: bool):
    super().__init__()
    self.norm1 = FrameNorm(d_in)
    self.conv1 = Conv(d_in, d_out, inflated=inflated)
    self.norm2 = FrameNorm(d_out)
    self.conv2 = Conv(d_out, d_out, zero=True, inflated=inflated)
    self.shortcut = None if d_in == d_out else Pointwise(d_in, d_out)

  def forward(self, x: Tensor, samples: int) -> Tensor:
    """Map [B T, d_in, H, W] to [B T, d_out, H, W]; `samples` is B."""
    h = self.conv1(silu(self.norm1(x)), samples)
    h = self.conv2(silu(self.norm2(h)), samples)
    return h + (x if self.shortcut is None else self.shortcut(x))


class Attention(nn.Module):
  """Residual single-head attention within each frame, or along time if `temporal`.

  Spatial attention is among the pixels of a frame, temporal attention among the frames of a pixel.

  Args:
    channels: C of inputs and outputs [B T, C, H, W].
    temporal: whether attention is along time.
  """

  def __init__(self, channels: int, temporal: bool):
    super().__init__()
    self.norm = FrameNorm(channels)
    self.qkv = Pointwise(channels, 3 * channels)
    self.out = Pointwise(channels, channels, zero=True)
    self.temporal = temporal

  def forward(self, x: Tensor, samples: int) -> Tensor:
    """Apply the layer to [B T, C, H, W]; `samples` is B."""
    tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (b t) (h w) c
    if self.temporal:
      tokens = tokens.unflatten(0, (samples, -1)).transpose(1, 2)  # b (h w) t c
    q, k, v = tokens.unsqueeze(-3).chunk(3, -1)
    y = scaled_dot_product_attention(q, k, v).squeeze(-3)
    if self.temporal:
      y = y.transpose(1, 2).flatten(0, 1)
    return x + self.out(y.transpose(1, 2).reshape(x.shape))


class Upsample(nn.Module):
  """Nearest-neighbor upsampling, then a Conv.

  Args:
    channels: C of inputs and outputs [B T, C, H, W].
    temporal: upsampling factor in time; that of height and width is 2.
    inflated: whether the convolution has a temporal part.
  """

  def __init__(self, channels: int, temporal: int, inflated: bool):
    super().__init__()
    self.conv = Conv(channels, channels, inflated=inflated)
    self.temporal = temporal

  def forward(self, x: Tensor, samples: int) -> Tensor:
    """Map [B T, C, H, W] to [B T temporal, C, 2 H, 2 W]; `samples` is B."""
    x = self.conv.in_space(x.repeat_interleave(2, -2).repeat_interleave(2, -1))
    # Repeat frames after the spatial convolution, so that it does not run on copies.
    return self.conv.in_time(x.repeat_interleave(self.temporal, 0), samples)


class Middle(nn.Module):
  """The layers at the lowest resolution: attention in space and time between residual blocks."""

  def __init__(self, width: int, inflated: bool):
    super().__init__()
    self.block1 = ResBlock(width, width, inflated)
    self.spatial = Attention(width, temporal=False)
    self.temporal = Attention(width, temporal=True) if inflated else None
    self.block2 = ResBlock(width, width, inflated)

  def forward(self, x: Tensor, samples: int) -> Tensor:
    """Apply the layers to [B T, C, H, W]; `samples` is B."""
    x = self.spatial(self.block1(x, samples), samples)
    return self.block2(x if self.temporal is None else self.temporal(x, samples), samples)


class Encoder(nn.Module):
  """Video float [B, 3, T, H, W] -> mean and log variance of raw latents.

  The result is float32 [B, 2 C, T', H', W']: C channels of means, then C of log variances.

  Args:
    widths: channels of each level.
    halvings: temporal stride (1 or 2) of each downsampling, first level first.
    channels: C of the latents.
    res_blocks: residual blocks per level.
    patch: side of the pixel squares that are folded into channels.
    inflated: whether there are temporal layers.
    linear_path: whether a linear map of space-time patches runs beside the network.
  """

  def __init__(
    self,
    widths: Sequence[int],
    halvings: Sequence[int],
    channels: int,
    res_blocks: int,
    patch: int,
    inflated: bool,
    linear_path: bool,
  ):
    super().__init__()
    self.conv_in = Conv(3 * patch**2, widths[0], inflated=inflated)
    self.layers = nn.ModuleList()
    width = widths[0]
    for level, d_out in enumerate(widths):
      for _ in range(res_blocks):
        self.layers.append(ResBlock(width, d_out, inflated))
        width = d_out
      if level < len(halvings):
        self.layers.append(Conv(width, width, stride=(halvings[level], 2), inflated=inflated))
    self.middle = Middle(width, inflated)
    self.norm = FrameNorm(width)
    self.conv_out = Conv(width, 2 * channels, zero=linear_path, inflated=inflated)
    nn.init.constant_(self.conv_out.bias.detach()[channels:], INITIAL_LOGVAR)
    self.patch, self.cell = patch, _cell(halvings, patch)
    self.patches = Pointwise(3 * math.prod(self.cell), channels) if linear_path else None

  def forward(self, video: Tensor) -> Tensor:
    """Encode a video float [B, 3, T, H, W] in [-1, 1] to [B, 2 C, T', H', W']."""
    samples = len(video)
    x = self.conv_in(_folded(video, (1, self.patch, self.patch)), samples)
    for layer in self.layers:
      x = layer(x, samples)
    x = self.conv_out(silu(self.norm(self.middle(x, samples))), samples).float()
    if self.patches is not None:
      mean, logvar = x.chunk(2, 1)
      x = torch.cat([mean + self.patches(_folded(video, self.cell)), logvar], 1)
    return x.unflatten(0, (samples, -1)).transpose(1, 2)


class Decoder(nn.Module):
  """Raw latents float [B, C, T', H', W'] -> video float32 [B, 3, T' st, H, W].

  The arguments are those of `Encoder`; each level has one more residual block.
  """

  def __init__(
    self,
    widths: Sequence[int],
    halvings: Sequence[int],
    channels: int,
    res_blocks: int,
    patch: int,
    inflated: bool,
    linear_path: bool,
  ):
    super().__init__()
    width = widths[-1]
    self.conv_in = Conv(channels, width, inflated=inflated)
    self.middle = Middle(width, inflated)
    self.layers = nn.ModuleList()
    for level, d_out in reversed(list(enumerate(widths))):
      for _ in range(res_blocks + 1):
        self.layers.append(ResBlock(width, d_out, inflated))
        width = d_out
      if level:
        self.layers.append(Upsample(width, halvings[level - 1], inflated))
    self.norm = FrameNorm(width)
    self.conv_out = Conv(width, 3 * patch**2, zero=linear_path, inflated=inflated)
    self.patch, self.cell = patch, _cell(halvings, patch)
    self.patches = Pointwise(channels, 3 * math.prod(self.cell)) if linear_path else None

  def forward(self, latents: Tensor) -> Tensor:
    """Decode raw latents [B, C, T', H', W'] to a video [B, 3, T' st, H, W], not clipped."""
    samples = len(latents)
    raw = _folded(latents, (1, 1, 1))
    x = self.middle(self.conv_in(raw, samples), samples)
    for layer in self.layers:
      x = layer(x, samples)
    x = self.conv_out(silu(self.norm(x)), samples).float()
    video = _unfolded(x, (1, self.patch, self.patch), samples)
    if self.patches is not None:
      video = video + _unfolded(self.patches(raw).float(), self.cell, samples)
    return video


class TTMTemporalAutoencoder(Model):
  """The TAE codec (see `codec_base`): T frames become ceil(T / st) latent frames, for any T.

  Attributes:
    shift: float32 [C], mean of the raw latents.
    scale: float32 scalar, 1 / root mean square of the shifted raw latents. Latents are
      `(raw - shift) * scale`.
    tile: (frames, height, width) in pixels that the network processes at once; None for no tiling.
      Longer videos are encoded in pieces of that many frames, without spatial tiling. They are
      decoded in tiles, which overlap by a half in time and a quarter in space.
    use_slicing: whether samples are processed one at a time.
  """

  FLOAT32 = ('shift', 'scale')

  @register_to_config
  def __init__(
    self,
    channels: int = 16,
    base_channels: int = 128,
    multipliers: Sequence[int] = (1, 2, 4, 4),
    res_blocks: int = 2,
    temporal_downsamples: int = 3,
    patch: int = 1,
    tile: Sequence[int] = (32, 512, 512),
    inflated: bool = True,
    linear_path: bool = False,
  ):
    """Initialize the codec; the defaults are those of Movie Gen (stride 8 x 8 x 8, 16 channels).

    Args:
      channels: C of the latents.
      base_channels: channels of the first level.
      multipliers: channels of each level, as multiples of base_channels. Height and width halve
        from level to level.
      res_blocks: residual blocks per level of the encoder; the decoder has one more.
      temporal_downsamples: number of downsamplings, the deepest ones, that also halve the frames.
      patch: side of the pixel squares that are folded into channels before the first convolution.
      tile: initial value of the attribute `tile`; tiling is on by default, as in training.
      inflated: whether there are temporal layers.
      linear_path: whether linear maps of space-time patches run beside both networks.
    """
    super().__init__()
    widths = [base_channels * m for m in multipliers]
    total = len(multipliers) - 1
    halvings = [1 + (i >= total - temporal_downsamples) for i in range(total)]
    sizes = (widths, halvings, channels, res_blocks, patch, inflated, linear_path)
    self.encoder = Encoder(*sizes)
    self.decoder = Decoder(*sizes)
    self.shift = nn.Parameter(torch.zeros(channels), requires_grad=False)
    self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
    self.tile: Sequence[int] | None = tile
    self.use_slicing = False

  @property
  def stride(self) -> tuple[int, int, int]:
    """Pixels per latent along (time, height, width)."""
    space = self.config.patch * 2 ** (len(self.config.multipliers) - 1)
    return 2**self.config.temporal_downsamples, space, space

  def enable_tiling(self, tile: Sequence[int] | None = None) -> None:
    """Turn tiling on; smaller tiles need less memory.

    Args:
      tile: (frames, height, width) in pixels; None for the configured size.

    Raises:
      ValueError: if the frames are not a multiple of twice the temporal stride, or height or width
        is not a multiple of four times the spatial stride.
    """
    tile = tile or self.config.tile
    time, space, _ = self.stride
    if tile[0] % (2 * time) or any(size % (4 * space) for size in tile[1:]):
      raise ValueError(f'tile {tuple(tile)} must divide by {2 * time} frames, {4 * space} pixels')
    self.tile = tile

  def disable_tiling(self) -> None:
    """Turn tiling off: process whole videos at once."""
    self.tile = None

  def enable_slicing(self) -> None:
    """Process the samples of a batch one at a time."""
    self.use_slicing = True

  def disable_slicing(self) -> None:
    """Process all samples of a batch at once."""
    self.use_slicing = False

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
    frames = self.tile[0] if self.tile else video.shape[2]
    raw = self._sliced(lambda part: in_pieces(self.encoder, part, frames), video)
    mean, logvar = raw.chunk(2, 1)
    scale, shift = self.scale.float(), self.shift.float()[:, None, None, None]
    return encoded((mean - shift) * scale, logvar.clamp(-30, 20) + 2 * scale.log())

  @apply_forward_hook
  def decode(self, latents: Tensor, num_frames: int | None = None) -> Decoded:
    """Decode latents [B, C, T', H', W'] to float32 [B, 3, T, H, W] in [-1, 1], see `codec_base`.

    Raises:
      ValueError: if the latents do not hold num_frames frames.
    """
    stride = self.stride
    num_frames = check_frames(latents, num_frames, stride[0])
    raw = latents.float() / self.scale.float() + self.shift.float()[:, None, None, None]
    sizes = list(latents.shape[2:])
    if self.tile:
      sizes = [size // step for size, step in zip(self.tile, stride, strict=True)]
    overlap = [size // part for size, part in zip(sizes, (2, 4, 4), strict=True)]
    video = self._sliced(lambda x: blended(self.decoder, x, sizes, overlap, stride), raw)
    return Decoded(sample=video[:, :, :num_frames].clamp(-1, 1))

  def _sliced(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([function(part) for part in x.split(1)]) if self.use_slicing else function(x)


def _cell(halvings: Sequence[int], patch: int) -> tuple[int, int, int]:
  """Return the frames, height and width in pixels of the patch that belongs to one latent."""
  side = patch * 2 ** len(halvings)
  return math.prod(halvings), side, side


def _folded(video: Tensor, patch: Sequence[int]) -> Tensor:
  """Fold patches of a video [B, C, T, H, W] into channels: [B T', st sh sw C, H', W'].

  A video whose length is not a multiple of the patch is padded with its last frame.
  """
  st, sh, sw = patch
  video = continued(video, st)
  b, c, t, height, width = video.shape
  cells = video.reshape(b, c, t // st, st, height // sh, sh, width // sw, sw)
  cells = cells.permute(0, 2, 3, 5, 7, 1, 4, 6)
  return cells.reshape(b * t // st, -1, height // sh, width // sw)


def _unfolded(cells: Tensor, patch: Sequence[int], samples: int) -> Tensor:
  """Invert `_folded` for color videos: [B T', st sh sw 3, H', W'] to [B, 3, T, H, W]."""
  st, sh, sw = patch
  height, width = cells.shape[2:]
  pixels = cells.reshape(samples, -1, st, sh, sw, 3, height, width)
  pixels = pixels.permute(0, 5, 1, 2, 6, 3, 7, 4)
  return pixels.reshape(samples, 3, -1, height * sh, width * sw)
