"""The parts of the U-Net of Stable Diffusion 1.5: convolutions, norms and the transformer block.

Activations are [B, T, H, W, C]; each frame goes through by itself, but for the two masked layers.
Parameters are float32, convolutions and matrix products run in the compute dtype, norms in float32.
What a from-scratch network begins with follows the original code (CompVis/latent-diffusion): the
last map of each residual branch is zero.
"""

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.nn.initial import initializer
from ttm_jax.nn.layers import Attention, AttentionMask, Linear, zeros_init
from ttm_jax.nn.masked_attention import GatedResidual, Masks, masked_cross, masked_self
from ttm_jax.ops.object_attention import sort, unsort

Array = jax.Array

# Uniform within 1 / sqrt(inputs), as PyTorch begins.
uniform_init = initializer(nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform'))


class Conv(nnx.Module):
  """A 3 x 3 convolution of each frame, padded by one pixel of zeros on every side.

  Attributes:
    kernel: float32 [3, 3, in, out].
    bias: float32 [out], or None.
  """

  def __init__(
    self,
    d_in: int,
    d_out: int,
    *,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
    stride: int = 1,
    bias: bool = True,
    init=uniform_init,
  ):
    self.kernel = nnx.Param(init(rngs.params(), (3, 3, d_in, d_out), jnp.float32))
    self.bias = nnx.Param(jnp.zeros((d_out,), jnp.float32)) if bias else None
    self.dtype, self.stride = dtype, stride

  def __call__(self, x: Array) -> Array:
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype).reshape(-1, *x.shape[2:]),
      self.kernel[...].astype(self.dtype),
      window_strides=(self.stride, self.stride),
      padding=((1, 1), (1, 1)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    if self.bias is not None:
      y = y + self.bias[...].astype(self.dtype)
    return y.reshape(*x.shape[:2], *y.shape[1:])


class GroupNorm(nnx.Module):
  """Normalises groups of neighbouring channels over the pixels of a frame, or of a whole clip."""

  def __init__(self, channels: int, groups: int, *, eps: float, clip: bool = False):
    self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
    self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
    self.groups, self.eps, self.clip = groups, eps, clip

  def __call__(self, x: Array) -> Array:
    count = x.shape[0] if self.clip else x.shape[0] * x.shape[1]
    rows = x.astype(jnp.float32).reshape(count, -1, x.shape[-1])

    def mean(values):
      # Over the pixels first: reductions of a five-dimensional view are slower on CPU.
      of_groups = values.mean(1).reshape(count, self.groups, -1).mean(-1)
      return jnp.repeat(of_groups, x.shape[-1] // self.groups, -1)[:, None]

    centred = rows - mean(rows)
    factor = jax.lax.rsqrt(mean(jnp.square(centred)) + self.eps) * self.scale[...]
    return (centred * factor + self.bias[...]).reshape(x.shape).astype(x.dtype)


class LayerNorm(nnx.Module):
  """Normalises the last axis, with scale and bias (eps 1e-5)."""

  def __init__(self, d: int):
    self.scale = nnx.Param(jnp.ones((d,), jnp.float32))
    self.bias = nnx.Param(jnp.zeros((d,), jnp.float32))

  def __call__(self, x: Array) -> Array:
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
    return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class GEGLU(nnx.Module):
  """The feed-forward (x W1 * gelu(x W2)) W3, four times as wide inside, with biases."""

  def __init__(self, d: int, *, rngs: nnx.Rngs, dtype):
    self.up = Linear(d, 8 * d, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    self.down = Linear(4 * d, d, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)

  def __call__(self, x: Array) -> Array:
    value, gate = jnp.split(self.up(x), 2, -1)
    return self.down(value * gelu(gate))


def gelu(x: Array) -> Array:
  """x times the normal distribution function of x, of any shape; within float32, as in PyTorch.

  `jax.nn.gelu` comes to the same by erfc, of which the compiler makes sixty instructions.
  """
  y = x.astype(jnp.float32)
  return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


class ResBlock(nnx.Module):
  """Two normalised convolutions with the time added in between, beside a shortcut."""

  def __init__(self, d_in: int, d_out: int, d_time: int, groups: int, *, rngs: nnx.Rngs, dtype):
    self.norm1 = GroupNorm(d_in, groups, eps=1e-5)
    self.conv1 = Conv(d_in, d_out, rngs=rngs, dtype=dtype)
    self.time = Linear(d_time, d_out, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    self.norm2 = GroupNorm(d_out, groups, eps=1e-5)
    self.conv2 = Conv(d_out, d_out, rngs=rngs, dtype=dtype, init=zeros_init)
    self.shortcut = (
      None
      if d_in == d_out
      else Linear(d_in, d_out, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    )

  def __call__(self, x: Array, time: Array) -> Array:
    """x [B, T, H, W, d_in], time [B, d_time] -> [B, T, H, W, d_out]."""
    y = self.conv1(jax.nn.silu(self.norm1(x)))
    y = y + self.time(time)[:, None, None, None]
    y = self.conv2(jax.nn.silu(self.norm2(y)))
    return y + (x if self.shortcut is None else self.shortcut(x))


@flax.struct.dataclass
class Level:
  """What the transformers at one resolution are given besides their tokens.

  Attributes:
    text: [B, M, D]; read: which of the T H W tokens may read which of it.
    masks: for the masked layers; None makes them plain ones. Where masked self-attention keeps to
      single frames, `order` and `own` have a row a frame, [B T, H W], else a row a clip.
  """

  text: Array
  read: AttentionMask
  masks: Masks | None


class TransformerBlock(nnx.Module):
  """Self-attention in each frame, cross-attention to the text, feed-forward.

  In a masked block: self, masked self, cross, masked cross, feed-forward. The tokens lie in the
  order of their objects from masked self-attention on: what follows does not depend on the order.
  """

  def __init__(
    self, d: int, heads: int, d_text: int, masked: tuple[bool, bool, bool], *, rngs: nnx.Rngs, dtype
  ):
    """Args:
    masked: whether there is masked self-attention, masked cross-attention, and whether the first
      keeps to single frames.
    """

    def attention(d_context: int | None = None) -> Attention:
      return Attention(
        d,
        heads,
        rngs=rngs,
        dtype=dtype,
        qk_norm=False,
        d_context=d_context,
        out_bias=True,
        init=uniform_init,
      )

    self.norm1, self.attention1 = LayerNorm(d), attention()
    self.norm2, self.attention2 = LayerNorm(d), attention(d_text)
    self.norm3, self.ffn = LayerNorm(d), GEGLU(d, rngs=rngs, dtype=dtype)
    has_self, has_cross, self.by_frame = masked

    def extra(sibling: Attention) -> GatedResidual:
      return GatedResidual(LayerNorm(d), nnx.clone(sibling))

    self.masked_self = extra(self.attention1) if has_self else None
    self.masked_cross = extra(self.attention2) if has_cross else None

  def __call__(self, h: Array, level: Level) -> Array:
    """h [B, T, N, d] -> [B, T, N, d]."""
    shape = h.shape
    b, t, _, d = shape
    h = h.reshape(b * t, -1, d)
    h = h + self.attention1(self.norm1(h))
    is_masked = self.masked_self is not None or self.masked_cross is not None
    masks = level.masks if is_masked else None
    rows = b * t if self.by_frame else b
    h = h.reshape(rows, -1, d)
    if masks is not None:
      h = sort(h, masks.order)
    if self.masked_self is not None:
      h = masked_self(self.masked_self, h, masks)
    h = h.reshape(b, -1, d)
    h = h + self.attention2(self.norm2(h), level.text, level.read)
    if self.masked_cross is not None:
      h = masked_cross(self.masked_cross, h, masks, level.text, level.read)
    h = h + self.ffn(self.norm3(h))
    if masks is not None:
      h = unsort(h.reshape(rows, -1, d), masks.order)
    return h.reshape(shape)


class SpatialTransformer(nnx.Module):
  """A transformer block among the pixels of each frame, as a residual."""

  def __init__(
    self,
    d: int,
    heads: int,
    d_text: int,
    groups: int,
    masked: tuple[bool, bool, bool],
    *,
    rngs: nnx.Rngs,
    dtype,
  ):
    self.norm = GroupNorm(d, groups, eps=1e-6)
    self.proj_in = Linear(d, d, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    self.block = TransformerBlock(d, heads, d_text, masked, rngs=rngs, dtype=dtype)
    self.proj_out = Linear(d, d, rngs=rngs, dtype=dtype, bias=True, init=zeros_init)

  def __call__(self, x: Array, level: Level) -> Array:
    b, t, _, _, d = x.shape
    h = self.proj_in(self.norm(x)).reshape(b, t, -1, d)
    return x + self.proj_out(self.block(h, level)).reshape(x.shape)
