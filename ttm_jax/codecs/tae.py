"""The temporal autoencoder (TAE) of Movie Gen: an image autoencoder inflated to video.

The image layers follow Stable Diffusion 3 (no quantization convolutions). Source: the temporal
autoencoder of Polyak et al. 2024 (Movie Gen, arXiv 2410.13720). Through-The-Mask, section 10,
trains on its latents.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ttm_jax.codecs.base import Moments, check_frames, check_pixels, to_float
from ttm_jax.codecs.inflated import (
  FrameNorm,
  PixelAttention,
  Pointwise,
  Upsample,
  VideoConv,
  VideoResBlock,
)
from ttm_jax.codecs.patches import fold, unfold
from ttm_jax.codecs.tiling import blended, in_pieces
from ttm_jax.errors import InputError
from ttm_jax.ops import rematerialization
from ttm_jax.parallel.sharded_attention import over_samples

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TAEConfig:
  """Configuration of a TAE; the defaults are Movie Gen's (stride 8 x 8 x 8, 16 channels).

  Attributes:
    channels: number of latent channels C.
    base_channels: width of the first level.
    multipliers: width of each level as a multiple of `base_channels`. Height and width halve
      between levels.
    res_blocks: residual blocks per level of the encoder; the decoder has one more.
    temporal_downsamples: number of spatial downsamplings that also halve the frames. They are the
      deepest ones, which have the largest receptive field and the most channels for motion.
    patch: side in pixels of the square patches folded into channels before the first convolution.
      A patch above 1 avoids convolutions at full resolution, for small machines.
    tile: (frames, height, width) in pixels, the most that the network processes at once. Longer
      videos are encoded in pieces of this many frames. Decoding uses tiles that overlap by half in
      time and a quarter in space. Only decoding is tiled in space.
    dtype: compute dtype, 'float32' or 'bfloat16'; weights and normalization are float32.
    remat: rematerialization policy of each layer, a name in `rematerialization.POLICIES`.
    inflated: whether there are temporal layers. Without them, this is an image autoencoder that
      processes frames independently.
    linear_path: whether linear maps of space-time patches run beside both networks, whose last
      layers are then initialized to zero. With the principal components of patches as these maps,
      training starts from the quality of a linear codec.

  Raises:
    InputError: values are inconsistent or not supported.
  """

  channels: int = 16
  base_channels: int = 128
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  res_blocks: int = 2
  temporal_downsamples: int = 3
  patch: int = 1
  tile: tuple[int, int, int] = (32, 512, 512)
  dtype: str = 'float32'
  remat: str = 'none'
  inflated: bool = True
  linear_path: bool = False

  def __post_init__(self):
    rematerialization.check(self.remat)
    if self.temporal_downsamples and not self.inflated:
      raise InputError(
        f'temporal_downsamples = {self.temporal_downsamples}, but nothing is inflated to time'
      )
    if self.temporal_downsamples > len(self.multipliers) - 1:
      raise InputError(
        f'temporal_downsamples = {self.temporal_downsamples}, but {len(self.multipliers)} levels'
        f' have {len(self.multipliers) - 1} halvings'
      )
    for width in self.widths:
      if width % (4 if width < 128 else 32):
        raise InputError(
          f'a level of width {width}: widths must divide by 4, and by 32 from 128 on'
        )
    if self.dtype not in ('float32', 'bfloat16'):
      raise InputError(f'dtype must be float32 or bfloat16, got {self.dtype}')
    time, space = self.stride
    if self.tile[0] % (2 * time) or any(size % (4 * space) for size in self.tile[1:]):
      raise InputError(
        f'tile {self.tile} must divide by {2 * time} frames and {4 * space} pixels,'
        ' so that overlaps are whole latents'
      )

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of each level, first level first."""
    return tuple(self.base_channels * m for m in self.multipliers)

  @property
  def halvings(self) -> tuple[int, ...]:
    """Temporal stride, 1 or 2, of each spatial downsampling, first level first."""
    total = len(self.multipliers) - 1
    return tuple(1 + (i >= total - self.temporal_downsamples) for i in range(total))

  @property
  def stride(self) -> tuple[int, int]:
    """(temporal, spatial) downsampling: frames and pixels per side of a latent."""
    return 2**self.temporal_downsamples, self.patch * 2 ** (len(self.multipliers) - 1)

  @property
  def cell(self) -> tuple[int, int, int]:
    """Frames, height and width in pixels of the patch that belongs to one latent."""
    time, space = self.stride
    return time, space, space


# Log variance of the latents before training. Their noise must be small beside their means, or the
# decoder learns to ignore them first.
INITIAL_LOGVAR = -8.0


class Middle(nnx.Module):
  """Lowest-resolution layers: spatial and temporal attention between two residual blocks."""

  def __init__(self, width: int, *, inflated: bool, dtype: DTypeLike, rngs: nnx.Rngs):
    self.block1 = VideoResBlock(width, width, inflated=inflated, dtype=dtype, rngs=rngs)
    self.spatial = PixelAttention(width, temporal=False, dtype=dtype, rngs=rngs)
    self.temporal = (
      PixelAttention(width, temporal=True, dtype=dtype, rngs=rngs) if inflated else None
    )
    self.block2 = VideoResBlock(width, width, inflated=inflated, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    x = self.spatial(self.block1(x))
    return self.block2(x if self.temporal is None else self.temporal(x))


class Encoder(nnx.Module):
  """Map a float video [B, T, H, W, 3] to float32 [B, T', H', W', 2 C]: means, log variances."""

  def __init__(self, config: TAEConfig, *, rngs: nnx.Rngs):
    dtype = jnp.dtype(config.dtype)
    common: Any = {'inflated': config.inflated, 'dtype': dtype, 'rngs': rngs}
    widths = config.widths
    self.conv_in = VideoConv(3 * config.patch**2, widths[0], **common)
    layers: list[nnx.Module] = []
    width = widths[0]
    for level, d_out in enumerate(widths):
      for _ in range(config.res_blocks):
        layers.append(VideoResBlock(width, d_out, **common))
        width = d_out
      if level < len(config.halvings):
        stride = (config.halvings[level], 2)
        layers.append(VideoConv(width, width, stride=stride, **common))
    self.layers = nnx.List(layers)
    self.middle = Middle(width, **common)
    self.norm = FrameNorm(width, dtype=dtype)
    self.conv_out = VideoConv(width, 2 * config.channels, zero=config.linear_path, **common)
    self.conv_out.bias[...] = self.conv_out.bias[...].at[config.channels :].set(INITIAL_LOGVAR)
    self.patches = (
      Pointwise(3 * math.prod(config.cell), config.channels, dtype=jnp.float32, rngs=rngs)
      if config.linear_path
      else None
    )
    self.patch, self.cell, self.remat = config.patch, config.cell, config.remat

  def __call__(self, video: Array) -> Array:
    x = self.conv_in(fold(video, (1, self.patch, self.patch)))
    for layer in (*self.layers, self.middle):
      x = rematerialization.apply(self.remat, layer, over_samples(x))
    x = self.conv_out(jax.nn.silu(self.norm(x))).astype(jnp.float32)
    if self.patches is not None:
      mean, logvar = jnp.split(x, 2, axis=-1)
      x = jnp.concatenate([mean + self.patches(fold(video, self.cell)), logvar], axis=-1)
    return x


class Decoder(nnx.Module):
  """Map float latents [B, T', H', W', C] to a float32 video [B, T' * st, H, W, 3].

  st is the temporal stride.
  """

  def __init__(self, config: TAEConfig, *, rngs: nnx.Rngs):
    dtype = jnp.dtype(config.dtype)
    common: Any = {'inflated': config.inflated, 'dtype': dtype, 'rngs': rngs}
    width = config.widths[-1]
    self.conv_in = VideoConv(config.channels, width, **common)
    self.middle = Middle(width, **common)
    layers: list[nnx.Module] = []
    for level, d_out in reversed(list(enumerate(config.widths))):
      for _ in range(config.res_blocks + 1):
        layers.append(VideoResBlock(width, d_out, **common))
        width = d_out
      if level:
        temporal = config.halvings[level - 1]
        layers.append(Upsample(width, temporal=temporal, **common))
    self.layers = nnx.List(layers)
    self.norm = FrameNorm(width, dtype=dtype)
    self.conv_out = VideoConv(width, 3 * config.patch**2, zero=config.linear_path, **common)
    self.patches = (
      Pointwise(config.channels, 3 * math.prod(config.cell), dtype=jnp.float32, rngs=rngs)
      if config.linear_path
      else None
    )
    self.patch, self.cell, self.remat = config.patch, config.cell, config.remat

  def __call__(self, latents: Array) -> Array:
    x = self.conv_in(latents)
    for layer in (self.middle, *self.layers):
      x = rematerialization.apply(self.remat, layer, over_samples(x))
    x = self.conv_out(jax.nn.silu(self.norm(x)))
    video = unfold(x.astype(jnp.float32), (1, self.patch, self.patch))
    if self.patches is not None:
      video += unfold(self.patches(latents.astype(jnp.float32)), self.cell)
    return video


class Normalization(nnx.Variable):
  """A measured latent statistic; not an `nnx.Param`, so optimizers do not update it."""


class TAE(nnx.Module):
  """A video codec: T frames encode to ceil(T / st) latent frames, for any T.

  st is the temporal stride. An image is a video of one frame. Normalized latents are
  `(raw - shift) * scale`.

  Args:
    config: size of the autoencoder.
    rngs: random number generators for the initial parameters.

  Attributes:
    shift: float32 [C], mean of the raw latents; 0 until `normalize` is called.
    scale: float32 [], reciprocal root mean square of the shifted latents; 1 until `normalize` is
      called. It is one number for all channels, so channels keep their relative scales.
  """

  def __init__(self, config: TAEConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.encoder = Encoder(config, rngs=rngs)
    self.decoder = Decoder(config, rngs=rngs)
    self.shift = Normalization(jnp.zeros(config.channels))
    self.scale = Normalization(jnp.ones(()))

  @property
  def channels(self) -> int:
    return self.config.channels

  @property
  def stride(self) -> tuple[int, int]:
    return (self.config.stride[1],) * 2

  def num_frames(self, latents: int) -> int:
    return latents * self.config.stride[0]

  def frame_groups(self, num_frames: int) -> np.ndarray:
    return np.arange(num_frames) // self.config.stride[0]

  def posterior(self, video: Array) -> Moments:
    """Return the moments before normalization, which the training losses use.

    Args:
      video: float32 [B, T, H, W, 3] in [-1, 1].

    Raises:
      InputError: the shape is wrong, or H or W is not a multiple of `stride`.
    """
    check_pixels(video, self.stride)
    out = in_pieces(self.encoder, video, self.config.tile[0])
    mean, logvar = jnp.split(out, 2, axis=-1)
    return Moments(mean, jnp.clip(logvar, -30, 20))

  def encode(self, video: Array) -> Moments:
    raw = self.posterior(video)
    assert raw.logvar is not None
    mean = (raw.mean - self.shift[...]) * self.scale[...]
    return Moments(mean, raw.logvar + 2 * jnp.log(self.scale[...]))

  def decode(self, latents: Array, num_frames: int) -> Array:
    time, space = self.config.stride
    check_frames(latents, num_frames, time)
    frames, height, width = self.config.tile
    tile = (frames // time, height // space, width // space)
    video = blended(
      self.decoder,
      latents / self.scale[...] + self.shift[...],
      tile=tile,
      overlap=(tile[0] // 2, tile[1] // 4, tile[2] // 4),
      factor=(time, space, space),
    )
    return jnp.clip(video[:, :num_frames], -1, 1)

  def reconstruct(self, video: Array, key: Array) -> tuple[Array, Moments, Array]:
    """Encode, sample and decode for training: raw latents, no tiled decoding, no clipping.

    Args:
      video: float32 [B, T, H, W, 3] in [-1, 1].
      key: JAX random key for the sample.

    Returns:
      The reconstruction, same shape as `video`; the raw posterior; and the sampled latents
      [B, T', H', W', C].
    """
    posterior = self.posterior(video)
    latents = posterior.sample(key)
    return self.decoder(latents)[:, : video.shape[1]], posterior, latents

  def normalize(self, videos: Iterable[np.ndarray]) -> None:
    """Set `shift` and `scale` from the latents of videos.

    Args:
      videos: uint8 [T, H, W, 3] each, all of the same size.

    Raises:
      InputError: there is no video, or its shape does not fit the codec.
    """
    count, total, squares = 0, np.zeros(self.channels), np.zeros(self.channels)
    moments = jax.jit(lambda codec, video: codec.posterior(video))
    for video in videos:
      raw = moments(self, to_float(video)[None])
      mean = np.asarray(raw.mean, np.float64).reshape(-1, self.channels)
      variance = np.exp(np.asarray(raw.logvar, np.float64)).reshape(-1, self.channels)
      count += len(mean)
      total += mean.sum(0)
      squares += (mean**2 + variance).sum(0)
    if not count:
      raise InputError('no videos to measure the latents of')
    shift = total / count
    self.shift[...] = jnp.asarray(shift, jnp.float32)
    self.scale[...] = jnp.asarray((squares / count - shift**2).mean() ** -0.5, jnp.float32)


# Partition spec of each parameter: the first entry whose pattern occurs in the parameter's path and
# whose rank matches. Convolution kernels have temporal or spatial axes before the channel axes.
SHARDING = (
  ('kernel', (None, None, None, 'fsdp')),
  ('kernel', (None, None, 'fsdp')),
  ('kernel', (None, 'fsdp')),
)


def forward_flops(config: TAEConfig, size: tuple[int, int, int]) -> float:
  """Return the FLOPs to encode and decode one video; convolutions and matrix products only.

  Args:
    config: size of the autoencoder.
    size: (T, H, W) of the video in pixels. Tiling is not counted.
  """

  def conv(n: int, d_in: int, d_out: int, n_time: int | None = None) -> float:
    """Return the FLOPs of a VideoConv with n spatial and n_time temporal output positions."""
    in_time = 2 * 3 * (n if n_time is None else n_time) * d_out * d_out
    return 2 * 9 * n * d_in * d_out + (in_time if config.inflated else 0)

  def block(n: int, d_in: int, d_out: int) -> float:
    shortcut = 0 if d_in == d_out else 2 * n * d_in * d_out
    return conv(n, d_in, d_out) + conv(n, d_out, d_out) + shortcut

  def middle(frames: int, area: int, d: int) -> float:
    n = frames * area
    spatial = 2 * n * 4 * d * d + 4 * n * area * d
    temporal = 2 * n * 4 * d * d + 4 * n * frames * d
    return 2 * block(n, d, d) + spatial + (temporal if config.inflated else 0)

  frames, area = size[0], size[1] * size[2] // config.patch**2
  widths, pixels = config.widths, 3 * config.patch**2
  total, width = conv(frames * area, pixels, widths[0]), widths[0]
  for level, d in enumerate(widths):
    for _ in range(config.res_blocks):
      total += block(frames * area, width, d)
      width = d
    if level < len(config.halvings):
      before, area = frames, area // 4
      frames = -(-frames // config.halvings[level])
      total += conv(before * area, d, d, frames * area)
  total += middle(frames, area, width) + conv(frames * area, width, 2 * config.channels)
  total += conv(frames * area, config.channels, width) + middle(frames, area, width)
  for level, d in reversed(list(enumerate(widths))):
    for _ in range(config.res_blocks + 1):
      total += block(frames * area, width, d)
      width = d
    if level:
      before, area = frames, area * 4
      frames *= config.halvings[level - 1]
      total += conv(before * area, d, d, frames * area)
  if config.linear_path:
    latents = -(-size[0] // config.cell[0]) * size[1] * size[2] // math.prod(config.cell[1:])
    total += 2 * 2 * latents * 3 * math.prod(config.cell) * config.channels
  return total + conv(frames * area, widths[0], pixels)
