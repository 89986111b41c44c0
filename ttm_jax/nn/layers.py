"""The small parts that backbones are made of.

Parameters are float32. Matrix products run in the compute dtype of their module; norms, softmax
and modulation run in float32.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.nn.initial import initializer
from ttm_jax.nn.modulation import rms_norm
from ttm_jax.ops.attention import attention
from ttm_jax.ops.object_attention import BlockMask, make_block_mask, object_attention

Array = jax.Array

normal_init = initializer(nnx.initializers.normal(0.02))
zeros_init = nnx.initializers.zeros_init()


class Linear(nnx.Module):
  """y = x W (+ b), on the last axis.

  Attributes:
    kernel: float32 [in, out].
    bias: float32 [out], or None.
  """

  def __init__(
    self, d_in: int, d_out: int, *, rngs: nnx.Rngs, dtype=jnp.float32, bias=False, init=normal_init
  ):
    self.kernel = nnx.Param(init(rngs.params(), (d_in, d_out), jnp.float32))
    self.bias = nnx.Param(jnp.zeros((d_out,), jnp.float32)) if bias else None
    self.dtype = dtype

  def __call__(self, x: Array) -> Array:
    y = matmul(x.astype(self.dtype), self.kernel[...])
    return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def rounded(module: nnx.Module) -> nnx.Module:
  """A copy whose matrices are in the dtype that they are used in, as are then their gradients.

  For a loop over layers: else each trip rounds its matrices, the backward pass once more, and the
  gradients of all layers lie there in float32, though they were rounded as well. What is called for
  by `exact_gradients` is kept as it is.
  """
  if _exact_gradients.get():
    return module
  copy = nnx.clone(module)
  for _, part in nnx.iter_modules(copy):
    if isinstance(part, Linear):
      part.kernel.set_value(part.kernel[...].astype(part.dtype))
  return copy


def matmul(x: Array, w: Array) -> Array:
  """x [..., in] times w [in, out], in the dtype of x.

  The leading axes are flattened first: the gradient of w is then one plain matrix product, which
  the CPU backend runs 2.6 times faster. A sequence that is sharded keeps its axes, since a merged
  axis cannot carry both shardings.
  """
  exact = _exact_gradients.get()

  def product(x):
    return _product(x, w) if exact else x @ w.astype(x.dtype)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.shape.get('sequence', 1) > 1:
    return product(x)
  return product(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], w.shape[-1])


_exact_gradients = contextvars.ContextVar('exact_gradients', default=False)


@contextlib.contextmanager
def exact_gradients(exact: bool = True) -> Iterator[None]:
  """Within, gradients of matrices are not rounded to the compute dtype before they are summed.

  The sums of the devices, or of the parts of a batch, are then float32, at twice the bytes. Else
  each device rounds its own gradient, and bfloat16 numbers are summed.
  """
  token = _exact_gradients.set(exact)
  try:
    yield
  finally:
    _exact_gradients.reset(token)


@jax.custom_vjp
def _product(x: Array, w: Array) -> Array:
  return x @ w.astype(x.dtype)


def _product_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
  x, w = saved
  rows = tuple(range(x.ndim - 1))
  dw = jax.lax.dot_general(x, dy, ((rows, rows), ((), ())), preferred_element_type=w.dtype)
  return dy @ w.astype(x.dtype).T, dw


_product.defvjp(lambda x, w: (_product(x, w), (x, w)), _product_backward)


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the last axis, in float32 (eps 1e-5 as in LLaMa 3)."""

  def __init__(self, d: int, eps: float = 1e-5):
    self.scale = nnx.Param(jnp.ones((d,), jnp.float32))
    self.eps = eps

  def __call__(self, x: Array) -> Array:
    """x [..., d] -> [..., d]."""
    return rms_norm(x, self.scale[...], jnp.zeros(()), self.eps)

  def modulated(self, x: Array, shift: Array, scale: Array) -> Array:
    """The norm of x [B, N, d], times 1 + scale, plus shift; both float32 [B, 1, d]."""
    return rms_norm(x, self.scale[...] * (1 + scale), shift, self.eps)


class SwiGLU(nnx.Module):
  """The feed-forward of LLaMa 3: (silu(x W1) * x W3) W2, no biases."""

  def __init__(self, d: int, hidden: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    self.gate = Linear(d, hidden, rngs=rngs, dtype=dtype)
    self.up = Linear(d, hidden, rngs=rngs, dtype=dtype)
    self.down = Linear(hidden, d, rngs=rngs, dtype=dtype)

  def __call__(self, x: Array) -> Array:
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


@flax.struct.dataclass
class AttentionMask:
  """Which queries may attend to which keys, for all layers that share a grid of tokens.

  Attributes:
    q_bits: int32 [B, N]; k_bits: int32 [B, M], the object sets (see `object_attention`).
    tables: the blocks of the score matrix that hold an allowed pair.
  """

  q_bits: Array
  k_bits: Array
  tables: BlockMask

  @classmethod
  def make(cls, q_bits: Array, k_bits: Array, head_dim: int, dtype: str) -> 'AttentionMask':
    """The pairs whose object sets meet, for attention with these heads in this compute dtype."""
    tables = make_block_mask(q_bits, k_bits, head_dim=head_dim, dtype=jnp.dtype(dtype))
    return cls(q_bits, k_bits, tables)

  def reads(self) -> Array:
    """Which queries may attend to anything at all: bool [B, N]."""
    offered = jax.lax.reduce(self.k_bits, np.int32(0), jax.lax.bitwise_or, (1,))
    return self.q_bits & offered[:, None] != 0


class Attention(nnx.Module):
  """Multi-head attention with its projections, on queries x and keys from x or a context.

  Attributes:
    qk_norm: RMSNorm of queries and keys over each head, against growing logits in bfloat16.
    d_context: width of the context, d by default.
    out_bias: whether the last projection has a bias.
    init: what the projections begin with.
  """

  def __init__(
    self,
    d: int,
    heads: int,
    *,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
    qk_norm: bool = True,
    d_context: int | None = None,
    out_bias: bool = False,
    init=normal_init,
  ):
    d_context = d_context or d
    self.query = Linear(d, d, rngs=rngs, dtype=dtype, init=init)
    self.key = Linear(d_context, d, rngs=rngs, dtype=dtype, init=init)
    self.value = Linear(d_context, d, rngs=rngs, dtype=dtype, init=init)
    self.out = Linear(d, d, rngs=rngs, dtype=dtype, bias=out_bias, init=init)
    self.query_norm = RMSNorm(d // heads) if qk_norm else None
    self.key_norm = RMSNorm(d // heads) if qk_norm else None
    self.heads = heads

  def __call__(
    self, x: Array, context: Array | None = None, pairs: AttentionMask | None = None
  ) -> Array:
    """x [B, N, d], context [B, M, D] (default x) -> [B, N, d]; all pairs by default.

    What may attend to nothing gets exactly zero, with a bias too.
    """
    context = x if context is None else context

    def heads(y):
      return y.reshape(*y.shape[:2], self.heads, -1)

    q, k, v = heads(self.query(x)), heads(self.key(context)), heads(self.value(context))
    if self.query_norm is not None and self.key_norm is not None:
      q, k = self.query_norm(q), self.key_norm(k)
    if pairs is None:
      y = attention(q, k, v)
    else:
      y = object_attention(q, k, v, pairs.q_bits, pairs.k_bits, tables=pairs.tables)
    y = self.out(y.reshape(*x.shape))
    if pairs is not None and self.out.bias is not None:
      y = jnp.where(pairs.reads()[..., None], y, 0)
    return y


class TimeEmbedding(nnx.Module):
  """Sinusoid -> Linear -> SiLU -> Linear, in float32.

  The sinusoid is [cos, sin] of t * 10000^(-2 i / width), t in 0..1000 (as in Movie Gen, Wan and
  Stable Diffusion).
  """

  def __init__(self, d: int, *, rngs: nnx.Rngs, width: int = 256):
    self.hidden = Linear(width, d, rngs=rngs, bias=True)
    self.out = Linear(d, d, rngs=rngs, bias=True)
    self.width = width

  def __call__(self, t: Array) -> Array:
    """float32 [B] -> float32 [B, d]."""
    half = self.width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t[:, None] * frequencies
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return self.out(jax.nn.silu(self.hidden(waves)))
