"""The temporal autoencoder (TAE) of Movie Gen: an image autoencoder inflated to video.

The image part is laid out as in Stable Diffusion 3 (no quantisation convolutions). Source: Polyak
et al. 2024 (Movie Gen, arXiv 2410.13720), the temporal autoencoder; the paper, section 10, trains
on its latents.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ttm_jax.codecs.base import Moments, check_frames, check_pixels, to_float
from ttm_jax.codecs.inflated import FrameNorm, PixelAttention, Upsample, VideoConv, VideoResBlock
from ttm_jax.codecs.tiling import blended, in_pieces
from ttm_jax.errors import InputError
from ttm_jax.ops import rematerialization
from ttm_jax.parallel.sharded_attention import over_samples

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TAEConfig:
  """Size of a TAE; the defaults are those of Movie Gen (8 x 8 x 8, 16 channels).

  Attributes:
    channels: C of the latents.
    base_channels: width at the first level.
    multipliers: width of each level, in base_channels. Between levels, height and width halve.
    res_blocks: blocks a level in the encoder; the decoder has one more.
    temporal_downsamples: how many of the halvings halve the frames too. They are the deepest: there
      a cell sees more of the motion between two frames, and has more channels to keep it in.
    patch: pixels (a square of so many a side) folded into channels before the first convolution,
      which spares the work at full resolution; for small machines.
    tile: (frames, height, width) in pixels that go through the network at once. Longer videos are
      encoded in pieces of so many frames, and decoded in such tiles, which overlap by a half in
      time and a quarter in space. Only decoding is tiled in space.
    dtype: of the computation, 'float32' or 'bfloat16'; weights and norms are float32.
    remat: what the backward pass recomputes of each layer, a name of `rematerialization.POLICIES`.
    inflated: whether there are layers in time; without them it is the image autoencoder, through
      which each frame goes by itself.
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
    return tuple(self.base_channels * m for m in self.multipliers)

  @property
  def halvings(self) -> tuple[int, ...]:
    """By how much each halving of the space divides the frames, 1 or 2, first level first."""
    total = len(self.multipliers) - 1
    return tuple(1 + (i >= total - self.temporal_downsamples) for i in range(total))

  @property
  def stride(self) -> tuple[int, int]:
    """(frames, pixels along a side) that a latent covers."""
    return 2**self.temporal_downsamples, self.patch * 2 ** (len(self.multipliers) - 1)


def fold(video: Array, patch: int) -> Array:
  """[B, T, H, W, 3] to [B, T, H / patch, W / patch, patch * patch * 3]."""
  b, t, h, w, _ = video.shape
  cells = video.reshape(b, t, h // patch, patch, w // patch, patch, 3)
  return cells.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h // patch, w // patch, -1)


def unfold(cells: Array, patch: int) -> Array:
  """The inverse of fold."""
  b, t, h, w, _ = cells.shape
  pixels = cells.reshape(b, t, h, w, patch, patch, 3).transpose(0, 1, 2, 4, 3, 5, 6)
  return pixels.reshape(b, t, h * patch, w * patch, 3)


class Middle(nnx.Module):
  """The layers at the lowest resolution: attention in space and in time between two blocks."""

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
  """Float [B, T, H, W, 3] to float32 [B, T', H', W', 2 C]: means and log variances."""

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
    self.conv_out = VideoConv(width, 2 * config.channels, **common)
    self.patch, self.remat = config.patch, config.remat

  def __call__(self, video: Array) -> Array:
    x = self.conv_in(fold(video, self.patch))
    for layer in (*self.layers, self.middle):
      x = rematerialization.apply(self.remat, layer, over_samples(x))
    x = self.conv_out(jax.nn.silu(self.norm(x)))
    return x.astype(jnp.float32)


class Decoder(nnx.Module):
  """Float [B, T', H', W', C] to float32 [B, T' * st, H, W, 3]."""

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
    self.conv_out = VideoConv(width, 3 * config.patch**2, **common)
    self.patch, self.remat = config.patch, config.remat

  def __call__(self, latents: Array) -> Array:
    x = self.conv_in(latents)
    for layer in (self.middle, *self.layers):
      x = rematerialization.apply(self.remat, layer, over_samples(x))
    x = self.conv_out(jax.nn.silu(self.norm(x)))
    return unfold(x.astype(jnp.float32), self.patch)


class Normalisation(nnx.Variable):
  """Measured, not trained: outside what an optimiser takes (`nnx.Param`)."""


class TAE(nnx.Module):
  """A codec. Any number of frames encodes, to ceil(T / st); a picture is a video of one frame.

  Attributes:
    shift: float32 [C], mean of the raw latents.
    scale: float32 [], one over the root mean square of the shifted ones, over all channels: they
      keep their relative sizes. Latents are `(raw - shift) * scale`; 0 and 1 until `normalise`.
  """

  def __init__(self, config: TAEConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.encoder = Encoder(config, rngs=rngs)
    self.decoder = Decoder(config, rngs=rngs)
    self.shift = Normalisation(jnp.zeros(config.channels))
    self.scale = Normalisation(jnp.ones(()))

  @property
  def channels(self) -> int:
    return self.config.channels

  @property
  def stride(self) -> tuple[int, int]:
    return (self.config.stride[1],) * 2

  def frame_groups(self, num_frames: int) -> np.ndarray:
    return np.arange(num_frames) // self.config.stride[0]

  def posterior(self, video: Array) -> Moments:
    """Like `encode`, but raw: what the losses of its training speak of."""
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
    """The round trip of training: through a draw of the raw latents, untiled and unclipped.

    Args:
      video: float32 [B, T, H, W, 3] in [-1, 1].

    Returns:
      The reconstruction, like video; the raw posterior; and the draw [B, T', H', W', C].
    """
    posterior = self.posterior(video)
    latents = posterior.sample(key)
    return self.decoder(latents)[:, : video.shape[1]], posterior, latents

  def normalise(self, videos: Iterable[np.ndarray]) -> None:
    """Sets shift and scale from videos: uint8 [T, H, W, 3] each, of one size."""
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


# Where each parameter lies on the mesh: the first pattern that occurs in its path, with as many
# axes, decides. Convolutions have axes of time or space before those of the channels.
SHARDING = (
  ('kernel', (None, None, None, 'fsdp')),
  ('kernel', (None, None, 'fsdp')),
  ('kernel', (None, 'fsdp')),
)


def forward_flops(config: TAEConfig, size: tuple[int, int, int]) -> float:
  """Floating-point operations of one round trip of one video: convolutions, matrix products.

  Args:
    size: (T, H, W) of the video in pixels; one piece of the encoder, untiled.
  """

  def conv(n: int, d_in: int, d_out: int, n_time: int | None = None) -> float:
    """n outputs of the part in space, n_time of the part in time."""
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
  return total + conv(frames * area, widths[0], pixels)
