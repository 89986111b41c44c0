"""The video autoencoders of Wan 2.1 and 2.2, causal in time (Wan Team 2025, arXiv 2503.20314).

The architecture is `AutoencoderKLWan` of diffusers; `codecs.wan_vae_convert` reads open weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.codecs.base import Moments, check_pixels
from ttm_jax.codecs.causal import (
  Cache,
  CausalConv,
  CausalResBlock,
  ChannelNorm,
  Downsample,
  Upsample,
  averaged,
  chained,
  duplicated,
  streamed,
)
from ttm_jax.codecs.causal_frames import check_frame_count, frames_of, groups_of
from ttm_jax.codecs.inflated import PixelAttention, Pointwise
from ttm_jax.codecs.patches import fold, unfold
from ttm_jax.codecs.tiling import blended
from ttm_jax.errors import InputError

Array = jax.Array

# Frames per latent frame after the first: the two deepest of the halvings in space also halve time.
STRIDE = 4

# Mean and standard deviation of the latents of Wan 2.1.
_MEAN = (
  *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
  *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_STD = (
  *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
  *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclasses.dataclass(frozen=True)
class WanVAEConfig:
  """Configuration of the autoencoder; defaults: Wan 2.1 (stride 4 x 8 x 8, 16 channels).

  Attributes:
    channels: number of latent channels C.
    base_channels: width of the first level of the encoder.
    decoder_channels: width of the first level of the decoder.
    multipliers: width of each level as a multiple of the first, at least three levels. Height and
      width halve between levels, and frames at the last two of these halvings.
    res_blocks: residual blocks per level of the encoder; the decoder has one more.
    residual: whether each level has a shortcut without parameters, as in Wan 2.2.
    patch: side in pixels of the square patches folded into channels before the first convolution.
    mean: mean of the raw latents, by channel.
    std: standard deviation of the raw latents, by channel.
    tile: (height, width) in pixels of the largest frames that are processed at once. Larger frames
      are encoded and decoded in tiles that overlap by a quarter.
    dtype: compute dtype, 'float32' or 'bfloat16'; weights and normalization are float32.

  Raises:
    InputError: values are inconsistent or not supported.
  """

  channels: int = 16
  base_channels: int = 96
  decoder_channels: int = 96
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  res_blocks: int = 2
  residual: bool = False
  patch: int = 1
  mean: tuple[float, ...] = _MEAN
  std: tuple[float, ...] = _STD
  tile: tuple[int, int] = (1280, 1280)
  dtype: str = 'float32'

  def __post_init__(self):
    if len(self.multipliers) < 3 or self.res_blocks < 1:
      raise InputError(
        f'multipliers {self.multipliers} and {self.res_blocks} res_blocks: at least three levels'
        ' and one block are needed'
      )
    for name in ('mean', 'std'):
      if len(values := getattr(self, name)) != self.channels or not np.isfinite(values).all():
        raise InputError(f'the {name} of the latents must be {self.channels} numbers')
    if min(self.std) <= 0:
      raise InputError('the std of the latents must be above 0')
    if self.dtype not in ('float32', 'bfloat16'):
      raise InputError(f'dtype must be float32 or bfloat16, got {self.dtype}')
    if any(size < 1 or size % (4 * self.side) for size in self.tile):
      raise InputError(
        f'tile {self.tile} must divide by {4 * self.side} pixels, so that overlaps are whole'
        ' latents'
      )
    self._check_widths()

  def _check_widths(self) -> None:
    """Raise InputError if the channels of a level cannot be grouped or halved as needed."""
    widths, factors = self.multipliers, [4 * time for time in self.halvings]
    if not self.residual:
      if any(self.decoder_channels * width % 2 for width in widths[1:]):
        raise InputError(
          f'multipliers {widths} of {self.decoder_channels} decoder channels: widths must be even,'
          ' upsampling halves them'
        )
      return
    down = zip((1, *widths), widths, (*factors, 1), strict=False)
    up = zip((*widths[2:], widths[-1]), widths[1:], factors, strict=True)
    if any(a * factor % b for a, b, factor in (*down, *((b, a, f) for a, b, f in up))):
      raise InputError(
        f'multipliers {widths}: shortcuts cannot group the channels of neighboring levels'
      )

  @property
  def side(self) -> int:
    """Spatial downsampling: pixels per side of a latent."""
    return self.patch * 2 ** (len(self.multipliers) - 1)

  @property
  def halvings(self) -> tuple[int, ...]:
    """Temporal stride, 1 or 2, of each spatial downsampling, first level first."""
    return (1,) * (len(self.multipliers) - 3) + (2, 2)


WAN21 = WanVAEConfig()

# Statistics of the latents: the constants of the original repository. The configuration of the
# weights has them too, and has precedence.
WAN22 = WanVAEConfig(
  channels=48,
  base_channels=160,
  decoder_channels=256,
  residual=True,
  patch=2,
  mean=(
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557),
    *(-0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825),
    *(-0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230),
    *(-0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748),
    *(0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
  ),
  std=(
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013),
    *(0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978),
    *(0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093),
    *(0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887),
    *(0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
  ),
)


class Level(nnx.Module):
  """Layers of one resolution and the resampling after them, with an optional shortcut.

  Args:
    layers: modules that map (activations, cache) to (activations, cache).
    d_out: output channels.
    factor: (temporal, spatial) resampling factors of the shortcut; None for no shortcut.
    up: whether the shortcut upsamples.
  """

  def __init__(
    self, layers: list[Any], d_out: int, *, factor: tuple[int, int] | None, up: bool = False
  ):
    self.layers = nnx.List(layers)
    self.d_out, self.factor, self.up = d_out, factor, up

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    y, kept = chained(self.layers, x, cache)
    if self.factor is not None and self.up:
      y = y + duplicated(x, self.d_out, self.factor, first=cache is None)
    elif self.factor is not None:
      y = y + averaged(x, self.d_out, self.factor)
    return y, kept


class Middle(nnx.Module):
  """Lowest-resolution layers: attention within each frame between two residual blocks."""

  def __init__(self, width: int, **common: Any):
    self.block1 = CausalResBlock(width, width, **common)
    norm = ChannelNorm(width, dtype=common['dtype'])
    self.attention = PixelAttention(width, temporal=False, norm=norm, **common)
    self.block2 = CausalResBlock(width, width, **common)

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    one, two = cache or (None, None)
    x, one = self.block1(x, one)
    x, two = self.block2(self.attention(x), two)
    return x, (one, two)


class Head(nnx.Module):
  """Last layers of the encoder and of the decoder: norm, SiLU and a convolution."""

  def __init__(self, width: int, d_out: int, **common: Any):
    self.norm = ChannelNorm(width, dtype=common['dtype'])
    self.conv = CausalConv(width, d_out, **common)

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    return self.conv(jax.nn.silu(self.norm(x)), cache)


class Encoder(nnx.Module):
  """Map patches [B, 4 n + 1, H, W, 3 patch^2] to raw moments [B, n + 1, H', W', 2 C]."""

  def __init__(self, config: WanVAEConfig, *, rngs: nnx.Rngs):
    common: Any = {'dtype': jnp.dtype(config.dtype), 'rngs': rngs}
    width = config.base_channels
    self.conv_in = CausalConv(3 * config.patch**2, width, **common)
    levels = []
    for level, multiplier in enumerate(config.multipliers):
      d_in, width = width, config.base_channels * multiplier
      layers: list[Any] = [
        CausalResBlock(width if i else d_in, width, **common) for i in range(config.res_blocks)
      ]
      factor = (1, 1)
      if level < len(config.halvings):
        factor = (config.halvings[level], 2)
        layers.append(Downsample(width, temporal=factor[0] == 2, **common))
      levels.append(Level(layers, width, factor=factor if config.residual else None))
    self.levels = nnx.List(levels)
    self.middle = Middle(width, **common)
    self.head = Head(width, 2 * config.channels, **common)

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    return chained((self.conv_in, *self.levels, self.middle, self.head), x, cache)


class Decoder(nnx.Module):
  """Map raw latents [B, n + 1, H', W', C] to patches [B, 4 n + 1, H, W, 3 patch^2]."""

  def __init__(self, config: WanVAEConfig, *, rngs: nnx.Rngs):
    common: Any = {'dtype': jnp.dtype(config.dtype), 'rngs': rngs}
    width = config.decoder_channels * config.multipliers[-1]
    self.conv_in = CausalConv(config.channels, width, **common)
    self.middle = Middle(width, **common)
    levels = []
    for level, multiplier in reversed(list(enumerate(config.multipliers))):
      d_in, width = width, config.decoder_channels * multiplier
      layers: list[Any] = [
        CausalResBlock(width if i else d_in, width, **common) for i in range(config.res_blocks + 1)
      ]
      factor = None
      if level:
        factor, d_in = (config.halvings[level - 1], 2), width
        # Without shortcuts, upsampling halves the channels.
        width = width if config.residual else width // 2
        layers.append(Upsample(d_in, width, temporal=factor[0] == 2, **common))
      levels.append(Level(layers, width, factor=factor if config.residual else None, up=True))
    self.levels = nnx.List(levels)
    self.head = Head(width, 3 * config.patch**2, **common)

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    return chained((self.conv_in, self.middle, *self.levels, self.head), x, cache)


class WanVAE(nnx.Module):
  """A video codec: 4 n + 1 frames encode to n + 1 latent frames.

  The first latent frame holds frame 0, latent frame k holds frames 4 k - 3 to 4 k. An image is a
  video of one frame. Normalized latents are `(raw - mean) / std`, by channel.

  Args:
    config: size of the autoencoder.
    rngs: random number generators for the initial parameters.
  """

  def __init__(self, config: WanVAEConfig, *, rngs: nnx.Rngs):
    dtype, c = jnp.dtype(config.dtype), config.channels
    self.config = config
    self.encoder = Encoder(config, rngs=rngs)
    self.quant = Pointwise(2 * c, 2 * c, dtype=dtype, rngs=rngs)
    self.post_quant = Pointwise(c, c, dtype=dtype, rngs=rngs)
    self.decoder = Decoder(config, rngs=rngs)

  @property
  def channels(self) -> int:
    return self.config.channels

  @property
  def stride(self) -> tuple[int, int]:
    return (self.config.side,) * 2

  def num_frames(self, latents: int) -> int:
    return frames_of(latents, STRIDE)

  def frame_groups(self, num_frames: int) -> np.ndarray:
    return groups_of(num_frames, STRIDE)

  def encode(self, video: Array) -> Moments:
    check_pixels(video, self.stride)
    check_frame_count(video.shape[1], STRIDE)
    side = self.config.side

    def moments(cells: Array) -> Array:
      pixels = patches(unfold(cells, (1, side, side)), self.config.patch)
      return self.quant(streamed(self.encoder, pixels, STRIDE)).astype(jnp.float32)

    # One cell is one latent, so that tiles start at whole latents.
    cells = fold(video, (1, side, side))
    out = self._in_tiles(moments, cells, (1, 1, 1))
    mean, logvar = jnp.split(out, 2, axis=-1)
    shift, scale = self._statistics()
    return Moments((mean - shift) / scale, jnp.clip(logvar, -30, 20) - 2 * np.log(scale))

  def decode(self, latents: Array, num_frames: int) -> Array:
    if num_frames != self.num_frames(latents.shape[1]):
      raise ValueError(
        f'{latents.shape[1]} latent frames are those of {self.num_frames(latents.shape[1])} frames,'
        f' not of {num_frames}'
      )

    def pixels(raw: Array) -> Array:
      out = streamed(self.decoder, self.post_quant(raw), 1)
      return unpatched(out.astype(jnp.float32), self.config.patch)

    shift, scale = self._statistics()
    raw, side = latents * scale + shift, self.config.side
    return jnp.clip(self._in_tiles(pixels, raw, (STRIDE, side, side)), -1, 1)

  def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of raw latents, float32 [C] each."""
    return np.array(self.config.mean, np.float32), np.array(self.config.std, np.float32)

  def _in_tiles(
    self, function: Callable[[Array], Array], x: Array, factor: tuple[int, int, int]
  ) -> Array:
    """Apply a function to spatial tiles of x [B, T, H', W', ...], one latent per element."""
    height, width = (size // self.config.side for size in self.config.tile)
    return blended(
      function,
      x,
      tile=(x.shape[1], height, width),
      overlap=(0, height // 4, width // 4),
      factor=factor,
    )


def patches(video: Array, side: int) -> Array:
  """Fold patches into channels: [B, T, H, W, 3] to [B, T, H / side, W / side, 3 side^2].

  The channels are ordered by color, column and row, as in the original.
  """
  b, t, h, w, c = video.shape
  cells = video.reshape(b, t, h // side, side, w // side, side, c)
  return cells.transpose(0, 1, 2, 4, 6, 5, 3).reshape(b, t, h // side, w // side, -1)


def unpatched(cells: Array, side: int) -> Array:
  """Invert `patches`: [B, T, H / side, W / side, 3 side^2] to [B, T, H, W, 3]."""
  b, t, h, w, _ = cells.shape
  pixels = cells.reshape(b, t, h, w, 3, side, side).transpose(0, 1, 2, 6, 3, 5, 4)
  return pixels.reshape(b, t, h * side, w * side, 3)
