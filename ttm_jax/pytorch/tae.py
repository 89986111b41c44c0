"""The temporal autoencoder (TAE) of Movie Gen: an image autoencoder inflated to video.

Each 2-D convolution is followed by a 1-D one along time, each spatial attention by a temporal one
("2.5D"). Time is padded by repeating the first and the last frame and there are no temporal
positions; a video without change is therefore processed as the picture it is. Source: Polyak et al.
2024 (Movie Gen, arXiv 2410.13720).

Inside, activations are [B T, C, H, W], so that what acts in space needs no other layout; the number
of samples B goes along. Matrix products run in the dtype of their weights, norms in float32.
"""

import math
from collections.abc import Callable, Sequence

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

from .codec_base import Decoded, Encoded, check_frames, check_pixels, encoded
from .model import Model
from .tiling import blended, in_pieces


def weights(*shape: int, zero: bool = False) -> nn.Parameter:
  """[out, in, ...]: zeros, or uniform so that outputs have the variance of inputs."""
  values = torch.zeros(shape)
  if not zero:
    bound = math.sqrt(3 / math.prod(shape[1:]))
    values.uniform_(-bound, bound)
  return nn.Parameter(values)


class Pointwise(nn.Module):
  """A linear map of the channels of [..., C, H, W]."""

  def __init__(self, d_in: int, d_out: int, zero: bool = False):
    super().__init__()
    self.weight = weights(d_out, d_in, zero=zero)
    self.bias = nn.Parameter(torch.zeros(d_out))

  def forward(self, x: Tensor) -> Tensor:
    return conv2d(x.to(self.weight.dtype), self.weight[..., None, None], self.bias)


class TemporalConv(nn.Module):
  """A 1-D convolution of width 3 along time, the identity at initialisation.

  With stride 2 it has ceil(T / 2) outputs, centred on the frames 0, 2, 4, ...
  """

  def __init__(self, channels: int, stride: int):
    super().__init__()
    self.weight = nn.Parameter(nn.init.dirac_(torch.zeros(channels, channels, 3)))
    self.bias = nn.Parameter(torch.zeros(channels))
    self.stride = stride

  def forward(self, x: Tensor, samples: int) -> Tensor:
    x = x.to(self.weight.dtype).unflatten(0, (samples, -1)).transpose(1, 2)  # b c t h w
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    x = conv3d(x, self.weight[..., None, None], self.bias, (self.stride, 1, 1))
    return x.transpose(1, 2).flatten(0, 1)


class Conv(nn.Module):
  """A 3 x 3 convolution in space, then a TemporalConv.

  Args:
    stride: (in time, in space). A spatial stride of 2 pads below and on the right only, as Stable
      Diffusion does.
    zero: whether the spatial weights start at zero.
    inflated: whether there is a part in time; without it each frame goes through by itself.
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
    before = int(self.stride == 1)
    x = pad(x.to(self.weight.dtype), (before, 1, before, 1))
    return conv2d(x, self.weight, self.bias, self.stride)

  def in_time(self, x: Tensor, samples: int) -> Tensor:
    return x if self.temporal is None else self.temporal(x, samples)

  def forward(self, x: Tensor, samples: int) -> Tensor:
    return self.in_time(self.in_space(x), samples)


class FrameNorm(nn.Module):
  """Group normalisation of each frame by itself: 32 groups, fewer (of 4) below 128 channels."""

  def __init__(self, channels: int):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(channels))
    self.bias = nn.Parameter(torch.zeros(channels))
    self.groups = min(32, channels // 4)

  def forward(self, x: Tensor) -> Tensor:
    y = group_norm(x.float(), self.groups, self.weight.float(), self.bias.float(), eps=1e-6)
    return y.to(x.dtype)


class ResBlock(nn.Module):
  """Two normalised convolutions beside a shortcut."""

  def __init__(self, d_in: int, d_out: int, inflated: bool):
    super().__init__()
    self.norm1 = FrameNorm(d_in)
    self.conv1 = Conv(d_in, d_out, inflated=inflated)
    self.norm2 = FrameNorm(d_out)
    self.conv2 = Conv(d_out, d_out, zero=True, inflated=inflated)
    self.shortcut = None if d_in == d_out else Pointwise(d_in, d_out)

  def forward(self, x: Tensor, samples: int) -> Tensor:
    h = self.conv1(silu(self.norm1(x)), samples)
    h = self.conv2(silu(self.norm2(h)), samples)
    return h + (x if self.shortcut is None else self.shortcut(x))


class Attention(nn.Module):
  """One head among the pixels of each frame or, if temporal, the frames of each pixel; residual."""

  def __init__(self, channels: int, temporal: bool):
    super().__init__()
    self.norm = FrameNorm(channels)
    self.qkv = Pointwise(channels, 3 * channels)
    self.out = Pointwise(channels, channels, zero=True)
    self.temporal = temporal

  def forward(self, x: Tensor, samples: int) -> Tensor:
    tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (b t) (h w) c
    if self.temporal:
      tokens = tokens.unflatten(0, (samples, -1)).transpose(1, 2)  # b (h w) t c
    q, k, v = tokens.unsqueeze(-3).chunk(3, -1)
    y = scaled_dot_product_attention(q, k, v).squeeze(-3)
    if self.temporal:
      y = y.transpose(1, 2).flatten(0, 1)
    return x + self.out(y.transpose(1, 2).reshape(x.shape))


class Upsample(nn.Module):
  """Twice the height and width, and `temporal` times the frames: repetition, then a Conv."""

  def __init__(self, channels: int, temporal: int, inflated: bool):
    super().__init__()
    self.conv = Conv(channels, channels, inflated=inflated)
    self.temporal = temporal

  def forward(self, x: Tensor, samples: int) -> Tensor:
    x = self.conv.in_space(x.repeat_interleave(2, -2).repeat_interleave(2, -1))
    # Frames are repeated after the spatial part, which acts on each alike.
    return self.conv.in_time(x.repeat_interleave(self.temporal, 0), samples)


class Middle(nn.Module):
  """The layers at the lowest resolution: attention in space and in time between two blocks."""

  def __init__(self, width: int, inflated: bool):
    super().__init__()
    self.block1 = ResBlock(width, width, inflated)
    self.spatial = Attention(width, temporal=False)
    self.temporal = Attention(width, temporal=True) if inflated else None
    self.block2 = ResBlock(width, width, inflated)

  def forward(self, x: Tensor, samples: int) -> Tensor:
    x = self.spatial(self.block1(x, samples), samples)
    return self.block2(x if self.temporal is None else self.temporal(x, samples), samples)


class Encoder(nn.Module):
  """Float [B, 3, T, H, W] to float32 [B, 2 C, T', H', W']: means and log variances."""

  def __init__(
    self,
    widths: Sequence[int],
    halvings: Sequence[int],
    channels: int,
    res_blocks: int,
    patch: int,
    inflated: bool,
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
    self.conv_out = Conv(width, 2 * channels, inflated=inflated)
    self.patch = patch

  def forward(self, video: Tensor) -> Tensor:
    samples = len(video)
    x = self.conv_in(_frames(video, self.patch), samples)
    for layer in self.layers:
      x = layer(x, samples)
    x = self.conv_out(silu(self.norm(self.middle(x, samples))), samples)
    return x.float().unflatten(0, (samples, -1)).transpose(1, 2)


class Decoder(nn.Module):
  """Float [B, C, T', H', W'] to float32 [B, 3, T' st, H, W]."""

  def __init__(
    self,
    widths: Sequence[int],
    halvings: Sequence[int],
    channels: int,
    res_blocks: int,
    patch: int,
    inflated: bool,
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
    self.conv_out = Conv(width, 3 * patch**2, inflated=inflated)
    self.patch = patch

  def forward(self, latents: Tensor) -> Tensor:
    samples = len(latents)
    x = self.middle(self.conv_in(_frames(latents, 1), samples), samples)
    for layer in self.layers:
      x = layer(x, samples)
    x = self.conv_out(silu(self.norm(x)), samples).float()
    p, (_, _, height, width) = self.patch, x.shape
    x = x.reshape(samples, -1, p, p, 3, height, width).permute(0, 4, 1, 5, 2, 6, 3)
    return x.reshape(samples, 3, -1, height * p, width * p)


class TTMTemporalAutoencoder(Model):
  """A codec (see `codec_base`). Any number of frames encodes, to ceil(T / st).

  Attributes:
    shift: float32 [C], mean of the raw latents.
    scale: float32 [], one over the root mean square of the shifted ones. Latents are
      `(raw - shift) * scale`.
    tile: (frames, height, width) in pixels that go through the network at once, None for all.
      Longer videos are encoded in pieces of so many frames, and decoded in such tiles, which
      overlap by a half in time and a quarter in space. Only decoding is tiled in space.
    use_slicing: whether samples go through one by one.
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
  ):
    """The defaults are Movie Gen's (8 x 8 x 8, 16 channels).

    Args:
      channels: C of the latents.
      base_channels: width at the first level.
      multipliers: width of each level, in base_channels. Between levels, height and width halve.
      res_blocks: blocks a level in the encoder; the decoder has one more.
      temporal_downsamples: how many of the halvings, the deepest, halve the frames too.
      patch: pixels (a square of so many a side) folded into channels before the first convolution.
      tile: what tiling begins with; it is on, as it was in training.
      inflated: whether there are layers in time.
    """
    super().__init__()
    widths = [base_channels * m for m in multipliers]
    total = len(multipliers) - 1
    halvings = [1 + (i >= total - temporal_downsamples) for i in range(total)]
    sizes = (widths, halvings, channels, res_blocks, patch, inflated)
    self.encoder = Encoder(*sizes)
    self.decoder = Decoder(*sizes)
    self.shift = nn.Parameter(torch.zeros(channels), requires_grad=False)
    self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
    self.tile: Sequence[int] | None = tile
    self.use_slicing = False

  @property
  def stride(self) -> tuple[int, int, int]:
    """Pixels a latent covers, along (time, height, width)."""
    space = self.config.patch * 2 ** (len(self.config.multipliers) - 1)
    return 2**self.config.temporal_downsamples, space, space

  def enable_tiling(self, tile: Sequence[int] | None = None) -> None:
    """Tiles of (frames, height, width), by default as configured; smaller ones need less memory.

    Raises:
      ValueError: unless the frames divide by twice the stride, height and width by four times.
    """
    tile = tile or self.config.tile
    time, space, _ = self.stride
    if tile[0] % (2 * time) or any(size % (4 * space) for size in tile[1:]):
      raise ValueError(f'tile {tuple(tile)} must divide by {2 * time} frames, {4 * space} pixels')
    self.tile = tile

  def disable_tiling(self) -> None:
    """Everything at once, whatever the memory."""
    self.tile = None

  def enable_slicing(self) -> None:
    """One sample after the other."""
    self.use_slicing = True

  def disable_slicing(self) -> None:
    """All samples at once."""
    self.use_slicing = False

  @apply_forward_hook  # Brings it to the GPU where the pipeline offloads models.
  def encode(self, video: Tensor) -> Encoded:
    """See `codec_base`."""
    check_pixels(video, self.stride)
    frames = self.tile[0] if self.tile else video.shape[2]
    raw = self._sliced(lambda part: in_pieces(self.encoder, part, frames), video)
    mean, logvar = raw.chunk(2, 1)
    scale, shift = self.scale.float(), self.shift.float()[:, None, None, None]
    return encoded((mean - shift) * scale, logvar.clamp(-30, 20) + 2 * scale.log())

  @apply_forward_hook
  def decode(self, latents: Tensor, num_frames: int | None = None) -> Decoded:
    """See `codec_base`."""
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


def _frames(video: Tensor, patch: int) -> Tensor:
  """[B, C, T, H, W] to [B T, patch patch C, H / patch, W / patch]."""
  b, c, t, height, width = video.shape
  cells = video.reshape(b, c, t, height // patch, patch, width // patch, patch)
  cells = cells.permute(0, 2, 4, 6, 1, 3, 5)
  return cells.reshape(b * t, -1, height // patch, width // patch)
