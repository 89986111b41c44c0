"""Layers of an image autoencoder inflated to video: a spatial part, then a temporal part.

A 1-D convolution along time follows each 2-D convolution, and temporal attention follows each
spatial attention ("2.5D"; Singer et al. 2022, and the temporal autoencoder of Movie Gen). At
initialization the temporal parts are the identity: each frame is processed as by the image network.

Temporal padding repeats the first and last frames, and there are no temporal position embeddings.
A static video therefore gives the same result as its single frame, for any weights. The last layer
of each residual branch is initialized to zero, which trains several times faster.

All layers take activations [B, T, H, W, C] and return them in `dtype`. Weights are float32 and cast
to `dtype`. Normalization statistics are float32 and computed per frame.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import variance_scaling
from jax.typing import DTypeLike

from ttm_jax.parallel.sharded_attention import over_samples

Array = jax.Array

_random = variance_scaling(1.0, 'fan_in', 'uniform')


class Pointwise(nnx.Module):
  """A linear map of the channels (a 1 x 1 convolution).

  Args:
    d_in: input channels.
    d_out: output channels.
    dtype: compute dtype.
    zero: whether the kernel is initialized to zero.
    rngs: random number generators for the initial kernel.
  """

  def __init__(
    self, d_in: int, d_out: int, *, dtype: DTypeLike, zero: bool = False, rngs: nnx.Rngs
  ):
    shape = (d_in, d_out)
    kernel = jnp.zeros(shape) if zero else _random(rngs.params(), shape, jnp.float32)
    self.kernel = nnx.Param(kernel)
    self.bias = nnx.Param(jnp.zeros(d_out))
    self.dtype = dtype

  def __call__(self, x: Array) -> Array:
    # 2-D matrix products have faster gradients on CPU.
    rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
    rows = rows @ self.kernel.astype(self.dtype) + self.bias.astype(self.dtype)
    return rows.reshape(*x.shape[:-1], -1)


class TemporalConv(nnx.Module):
  """A 1-D convolution of width 3 along time, the identity at initialization.

  Args:
    channels: input and output channels.
    stride: temporal stride. With 2, the layer returns ceil(T / 2) frames, centered on the input
      frames 0, 2, 4, ...
    dtype: compute dtype.
  """

  def __init__(self, channels: int, *, stride: int = 1, dtype: DTypeLike):
    self.kernel = nnx.Param(jnp.zeros((3, channels, channels)).at[1].set(jnp.eye(channels)))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.stride = stride
    self.dtype = dtype

  def __call__(self, x: Array) -> Array:
    b, t, h, w, c = x.shape
    padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), *[(0, 0)] * 3), mode='edge')
    y = jax.lax.conv_general_dilated(
      padded.reshape(b, t + 2, h * w, c),
      self.kernel.astype(self.dtype)[:, None],
      window_strides=(self.stride, 1),
      padding='VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return y.reshape(b, -1, h, w, c) + self.bias.astype(self.dtype)


class VideoConv(nnx.Module):
  """A 3 x 3 spatial convolution, then a TemporalConv.

  Args:
    d_in: input channels.
    d_out: output channels.
    stride: (temporal, spatial). With a spatial stride of 2, only the bottom and right edges are
      padded, as in Stable Diffusion.
    zero: whether the spatial kernel is initialized to zero.
    inflated: whether to add the temporal convolution; without it, frames are independent.
    dtype: compute dtype.
    rngs: random number generators for the initial kernel.
  """

  def __init__(
    self,
    d_in: int,
    d_out: int,
    *,
    stride: tuple[int, int] = (1, 1),
    zero: bool = False,
    inflated: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    shape = (3, 3, d_in, d_out)
    kernel = jnp.zeros(shape) if zero else _random(rngs.params(), shape, jnp.float32)
    self.kernel = nnx.Param(kernel)
    self.bias = nnx.Param(jnp.zeros(d_out))
    self.temporal = TemporalConv(d_out, stride=stride[0], dtype=dtype) if inflated else None
    self.stride = stride[1]
    self.dtype = dtype

  def in_space(self, x: Array) -> Array:
    """Apply the spatial convolution alone."""
    b, t, h, w, c = x.shape
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype).reshape(b * t, h, w, c),
      self.kernel.astype(self.dtype),
      window_strides=(self.stride, self.stride),
      padding=[(int(self.stride == 1), 1)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return y.reshape(b, t, *y.shape[1:]) + self.bias.astype(self.dtype)

  def in_time(self, x: Array) -> Array:
    """Apply the temporal convolution alone, if there is one."""
    return x if self.temporal is None else self.temporal(x)

  def __call__(self, x: Array) -> Array:
    return self.in_time(self.in_space(x))


class FrameNorm(nnx.Module):
  """Group normalization per frame: 32 groups, or groups of 4 channels below 128 channels."""

  def __init__(self, channels: int, *, dtype: DTypeLike):
    self.scale = nnx.Param(jnp.ones(channels))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.groups = min(32, channels // 4)
    self.dtype = dtype

  def __call__(self, x: Array) -> Array:
    b, t, h, w, c = x.shape
    rows = x.astype(jnp.float32).reshape(b * t, h * w, c)

    def mean(values):
      # Reduce over pixels first: reducing a 5-D view is slower on CPU.
      groups = values.mean(1).reshape(b * t, self.groups, -1).mean(-1)
      return groups.repeat(c // self.groups, axis=-1)[:, None]

    centered = rows - mean(rows)
    factor = jax.lax.rsqrt(mean(jnp.square(centered)) + 1e-6) * self.scale
    return (centered * factor + self.bias).reshape(x.shape).astype(self.dtype)


class VideoResBlock(nnx.Module):
  """A residual block: two convolutions, each after a FrameNorm and SiLU, and a shortcut."""

  def __init__(
    self, d_in: int, d_out: int, *, inflated: bool = True, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    self.norm1 = FrameNorm(d_in, dtype=dtype)
    self.conv1 = VideoConv(d_in, d_out, inflated=inflated, dtype=dtype, rngs=rngs)
    self.norm2 = FrameNorm(d_out, dtype=dtype)
    self.conv2 = VideoConv(d_out, d_out, zero=True, inflated=inflated, dtype=dtype, rngs=rngs)
    # No temporal part: a temporal kernel of width 1 would be merged into the same linear map.
    self.shortcut = None if d_in == d_out else Pointwise(d_in, d_out, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    h = self.conv1(jax.nn.silu(self.norm1(x)))
    h = self.conv2(jax.nn.silu(self.norm2(h)))
    return h + (x if self.shortcut is None else self.shortcut(x))


class PixelAttention(nnx.Module):
  """Single-head attention with a residual connection, over space or over time.

  Args:
    channels: input and output channels.
    temporal: whether to attend over the frames of each pixel instead of the pixels of each frame.
    norm: normalization of the input; by default a FrameNorm.
    dtype: compute dtype.
    rngs: random number generators for the initial kernels.
  """

  def __init__(
    self,
    channels: int,
    *,
    temporal: bool,
    norm: Callable[[Array], Array] | None = None,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.norm = FrameNorm(channels, dtype=dtype) if norm is None else norm
    self.qkv = Pointwise(channels, 3 * channels, dtype=dtype, rngs=rngs)
    self.out = Pointwise(channels, channels, dtype=dtype, zero=True, rngs=rngs)
    self.temporal = temporal

  def __call__(self, x: Array) -> Array:
    b, t, h, w, c = x.shape
    qkv = self.qkv(self.norm(x)).reshape(b, t, h * w, 3 * c)
    if self.temporal:
      qkv = qkv.swapaxes(1, 2)
    sequences = qkv.shape[:3]
    q, k, v = jnp.split(qkv.reshape(-1, sequences[2], 1, 3 * c), 3, axis=-1)
    y = jax.nn.dot_product_attention(q, k, v).reshape(*sequences, c)
    if self.temporal:
      y = y.swapaxes(1, 2)
    return x + self.out(y).reshape(x.shape)


class Upsample(nnx.Module):
  """Nearest-neighbor upsampling, 2 times in space and `temporal` times in time, and a VideoConv."""

  def __init__(
    self,
    channels: int,
    *,
    temporal: int,
    inflated: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.conv = VideoConv(channels, channels, inflated=inflated, dtype=dtype, rngs=rngs)
    self.temporal = temporal

  def __call__(self, x: Array) -> Array:
    # On a mesh, the compiler would otherwise shard the channels here and all-gather the samples.
    x = over_samples(self.conv.in_space(x.repeat(2, axis=2).repeat(2, axis=3)))
    # Repeat frames after the spatial part: it treats each frame alike, so this saves work.
    return self.conv.in_time(x.repeat(self.temporal, axis=1))
