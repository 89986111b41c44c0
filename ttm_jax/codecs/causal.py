"""Layers that are causal in time and can process a video in consecutive pieces.

Each layer maps (activations [B, T, H, W, C], cache) to (activations, cache). The cache holds the
last input frames that later outputs depend on, as a pytree of arrays. It is None at the beginning
of a video. Pieces with the cache carried over give the same result as the whole video at once.

Before the first frame, convolutions see zeros. The first frame has special treatment in time: it
passes a halving or doubling of the frames unchanged, so that an image is a video of one frame.

Layers return activations in `dtype`. Weights are float32 and cast to `dtype`. Source: the
autoencoders of Wan 2.1 and 2.2 (Wan Team 2025, arXiv 2503.20314).
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import variance_scaling
from jax.typing import DTypeLike

from ttm_jax.codecs.inflated import Pointwise, VideoConv
from ttm_jax.parallel.sharded_attention import over_samples

Array = jax.Array
Cache = Any
Layer = Callable[[Array, Cache], tuple[Array, Cache]]

_random = variance_scaling(1.0, 'fan_in', 'uniform')


class ChannelNorm(nnx.Module):
  """Root mean square normalization of the channels of each pixel, in float32."""

  def __init__(self, channels: int, *, dtype: DTypeLike):
    self.scale = nnx.Param(jnp.ones(channels))
    self.dtype = dtype

  def __call__(self, x: Array) -> Array:
    x = x.astype(jnp.float32)
    # A lower bound instead of an added epsilon, as in the original.
    square = jnp.maximum(jnp.square(x).mean(-1, keepdims=True), 1e-24 / x.shape[-1])
    return (x * jax.lax.rsqrt(square) * self.scale).astype(self.dtype)


class CausalConv(nnx.Module):
  """A convolution of width 3 in time that sees no later frames.

  Args:
    d_in: input channels.
    d_out: output channels.
    side: width in space, 1 or 3.
    stride: temporal stride, 1 or 2. Output frames end at the last frame of each stride.
    dtype: compute dtype.
    rngs: random number generators for the initial kernel.
  """

  def __init__(
    self,
    d_in: int,
    d_out: int,
    *,
    side: int = 3,
    stride: int = 1,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.kernel = nnx.Param(_random(rngs.params(), (3, side, side, d_in, d_out), jnp.float32))
    self.bias = nnx.Param(jnp.zeros(d_out))
    self.stride = stride
    self.dtype = dtype

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    x = x.astype(self.dtype)
    before = 3 - self.stride
    if cache is None:
      cache = jnp.zeros((x.shape[0], before, *x.shape[2:]), self.dtype)
    x = jnp.concatenate([cache, x], axis=1)
    margin = self.kernel.shape[1] // 2
    y = jax.lax.conv_general_dilated(
      x,
      self.kernel.astype(self.dtype),
      window_strides=(self.stride, 1, 1),
      padding=((0, 0), (margin, margin), (margin, margin)),
      dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    )
    return y + self.bias.astype(self.dtype), x[:, -before:]


class CausalResBlock(nnx.Module):
  """A residual block: two convolutions, each after a ChannelNorm and SiLU, and a shortcut."""

  def __init__(self, d_in: int, d_out: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
    self.norm1 = ChannelNorm(d_in, dtype=dtype)
    self.conv1 = CausalConv(d_in, d_out, dtype=dtype, rngs=rngs)
    self.norm2 = ChannelNorm(d_out, dtype=dtype)
    self.conv2 = CausalConv(d_out, d_out, dtype=dtype, rngs=rngs)
    self.shortcut = None if d_in == d_out else Pointwise(d_in, d_out, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    one, two = cache or (None, None)
    h, one = self.conv1(jax.nn.silu(self.norm1(x)), one)
    h, two = self.conv2(jax.nn.silu(self.norm2(h)), two)
    return h + (x if self.shortcut is None else self.shortcut(x)), (one, two)


class Downsample(nnx.Module):
  """Halve height and width, and optionally the frames after the first (2 n + 1 to n + 1)."""

  def __init__(self, channels: int, *, temporal: bool, dtype: DTypeLike, rngs: nnx.Rngs):
    self.space = VideoConv(
      channels, channels, stride=(1, 2), inflated=False, dtype=dtype, rngs=rngs
    )
    self.time = (
      CausalConv(channels, channels, side=1, stride=2, dtype=dtype, rngs=rngs) if temporal else None
    )

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    x = self.space(x)
    if self.time is None:
      return x, None
    if cache is not None:
      return self.time(x, cache)
    y, cache = self.time(x[:, 1:], x[:, :1])
    return jnp.concatenate([x[:, :1], y], axis=1), cache


class Upsample(nnx.Module):
  """Double height and width, and optionally the frames after the first (n + 1 to 2 n + 1).

  The first frame is not seen by the temporal convolution, not even as context of later frames.
  """

  def __init__(
    self, channels: int, d_out: int, *, temporal: bool, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    self.time = (
      CausalConv(channels, 2 * channels, side=1, dtype=dtype, rngs=rngs) if temporal else None
    )
    self.space = VideoConv(channels, d_out, inflated=False, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, cache: Cache = None) -> tuple[Array, Cache]:
    if self.time is not None:
      first, rest = (x[:, :0], x) if cache is not None else (x[:, :1], x[:, 1:])
      pairs, cache = self.time(rest, cache)
      b, t, h, w, c = rest.shape
      pairs = pairs.reshape(b, t, h, w, 2, c).transpose(0, 1, 4, 2, 3, 5)
      x = jnp.concatenate([first, pairs.reshape(b, 2 * t, h, w, c)], axis=1)
    return self.space(x.repeat(2, axis=2).repeat(2, axis=3)), cache


def averaged(x: Array, d_out: int, factor: tuple[int, int]) -> Array:
  """Downsample without parameters: fold pixels into channels and average groups of channels.

  Zeros are added before the first frame if the frames do not divide, as for the first piece of a
  video.

  Args:
    x: [B, T, H, W, C].
    d_out: output channels.
    factor: (temporal, spatial) factors.

  Returns:
    [B, ceil(T / temporal), H / spatial, W / spatial, d_out].
  """
  time, space = factor
  x = jnp.pad(x, ((0, 0), (-x.shape[1] % time, 0), *[(0, 0)] * 3))
  b, t, h, w, c = x.shape
  cells = x.reshape(b, t // time, time, h // space, space, w // space, space, c)
  cells = cells.transpose(0, 1, 3, 5, 7, 2, 4, 6)
  return cells.reshape(*cells.shape[:4], d_out, -1).mean(-1)


def duplicated(x: Array, d_out: int, factor: tuple[int, int], first: bool) -> Array:
  """Upsample without parameters: repeat channels and unfold them into pixels.

  Args:
    x: [B, T, H, W, C].
    d_out: output channels.
    factor: (temporal, spatial) factors.
    first: whether x begins with the first frame of the video, which becomes one frame.

  Returns:
    [B, T', H * spatial, W * spatial, d_out]; T' is T * temporal, less temporal - 1 if `first`.
  """
  time, space = factor
  b, t, h, w, c = x.shape
  x = x.repeat(d_out * time * space**2 // c, axis=-1)
  x = x.reshape(b, t, h, w, d_out, time, space, space).transpose(0, 1, 5, 2, 6, 3, 7, 4)
  x = x.reshape(b, t * time, h * space, w * space, d_out)
  return x[:, time - 1 :] if first else x


def chained(layers: Iterable[Layer], x: Array, cache: Cache) -> tuple[Array, Cache]:
  """Apply layers one after the other; the cache is the list of their caches."""
  kept = []
  for i, layer in enumerate(layers):
    x, of_layer = layer(over_samples(x), None if cache is None else cache[i])
    kept.append(of_layer)
  return x, kept


def streamed(network: Layer, x: Array, frames: int) -> Array:
  """Apply a causal network to the first frame, then to groups of frames in a sequential loop.

  Memory holds the activations of one group, whatever the length.

  Args:
    network: maps (activations, cache) to (activations, cache).
    x: [B, 1 + n * frames, H, W, C].
    frames: frames per group.

  Returns:
    The outputs, concatenated along time.
  """
  first, cache = network(x[:, :1], None)
  count = (x.shape[1] - 1) // frames
  if not count:
    return first

  def step(cache, group):
    y, cache = network(group, cache)
    return cache, y

  groups = x[:, 1:].reshape(x.shape[0], count, frames, *x.shape[2:]).swapaxes(0, 1)
  rest = jax.lax.scan(step, cache, groups)[1].swapaxes(0, 1)
  rest = rest.reshape(rest.shape[0], -1, *rest.shape[3:])
  return jnp.concatenate([first, rest], axis=1)
