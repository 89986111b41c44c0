"""Multi-head attention with its projections, and the mask of allowed query-key pairs."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.nn.linear import Linear, normal_init
from ttm_jax.nn.norms import RMSNorm
from ttm_jax.nn.rope import Rotation, rotate
from ttm_jax.ops.attention import attention
from ttm_jax.ops.object_attention import BlockMask, make_block_mask, object_attention

Array = jax.Array

QK_NORMS = ('head', 'width', None)


@flax.struct.dataclass
class AttentionMask:
  """Which queries may attend to which keys, for all layers that share a token grid.

  Query i may attend to key j iff `q_bits[i] & k_bits[j] != 0`.

  Attributes:
    q_bits: int32 [B, N], the object set of each query.
    k_bits: int32 [B, M], the object set of each key.
    block_mask: the blocks of the score matrix that hold an allowed pair.
  """

  q_bits: Array
  k_bits: Array
  block_mask: BlockMask

  @classmethod
  def make(cls, q_bits: Array, k_bits: Array, head_dim: int, dtype: str) -> 'AttentionMask':
    """Return the mask for attention with this head dimension and compute dtype.

    Args:
      q_bits: int32 [B, N].
      k_bits: int32 [B, M].
      head_dim: channels per head.
      dtype: compute dtype of the attention, 'bfloat16' or 'float32'.
    """
    block_mask = make_block_mask(q_bits, k_bits, head_dim=head_dim, dtype=jnp.dtype(dtype))
    return cls(q_bits, k_bits, block_mask)

  def has_keys(self) -> Array:
    """Return which queries have at least one allowed key: bool [B, N]."""
    offered = jax.lax.reduce(self.k_bits, np.int32(0), jax.lax.bitwise_or, (1,))
    return self.q_bits & offered[:, None] != 0


class Attention(nnx.Module):
  """Multi-head attention; queries come from x, keys and values from x or from a context.

  Args:
    d: width; each of `heads` heads has d / heads channels.
    heads: number of heads.
    rngs: source of the initial kernels.
    dtype: compute dtype of the projections.
    qk_norm: RMSNorm of queries and keys: 'head' over each head (keeps bfloat16 logits bounded),
      'width' over all heads together (Wan), or None.
    d_context: width of the context; d if None.
    qkv_bias, out_bias: whether the input projections and the output projection have biases.
    init: initializer of the kernels of the projections.
    eps: epsilon of the RMSNorms.

  Raises:
    ValueError: if `qk_norm` is unknown.
  """

  def __init__(
    self,
    d: int,
    heads: int,
    *,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
    qk_norm: str | None = 'head',
    d_context: int | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    init=normal_init,
    eps: float = 1e-5,
  ):
    if qk_norm not in QK_NORMS:
      raise ValueError(f'qk_norm must be one of {QK_NORMS}, got {qk_norm!r}')
    d_context = d_context or d
    self.query = Linear(d, d, rngs=rngs, dtype=dtype, init=init, bias=qkv_bias)
    self.key = Linear(d_context, d, rngs=rngs, dtype=dtype, init=init, bias=qkv_bias)
    self.value = Linear(d_context, d, rngs=rngs, dtype=dtype, init=init, bias=qkv_bias)
    self.out = Linear(d, d, rngs=rngs, dtype=dtype, bias=out_bias, init=init)
    normed = d if qk_norm == 'width' else d // heads
    self.query_norm = RMSNorm(normed, eps) if qk_norm else None
    self.key_norm = RMSNorm(normed, eps) if qk_norm else None
    self.heads, self.qk_norm = heads, qk_norm

  def __call__(
    self,
    x: Array,
    context: Array | None = None,
    mask: AttentionMask | None = None,
    rotation: Rotation | None = None,
  ) -> Array:
    """Return the attention output, after the output projection.

    Args:
      x: [B, N, d].
      context: [B, M, d_context]; x if None.
      mask: the allowed pairs; all pairs if None. A query without an allowed key returns exactly
        zero, even with an output bias.
      rotation: rotary position embedding of queries and keys, for self-attention.

    Returns:
      [B, N, d], in the compute dtype.
    """
    context = x if context is None else context
    q, k = (
      self._normed(self.query(x), self.query_norm),
      self._normed(self.key(context), self.key_norm),
    )
    v = self._split(self.value(context))
    if rotation is not None:
      q, k = rotate(q, rotation), rotate(k, rotation)
    if mask is None:
      y = attention(q, k, v)
    else:
      y = object_attention(q, k, v, mask.q_bits, mask.k_bits, block_mask=mask.block_mask)
    y = self.out(y.reshape(*x.shape))
    if mask is not None and self.out.bias is not None:
      y = jnp.where(mask.has_keys()[..., None], y, 0)
    return y

  def _split(self, y: Array) -> Array:
    """Reshape [B, N, d] to [B, N, heads, d / heads]."""
    return y.reshape(*y.shape[:2], self.heads, -1)

  def _normed(self, y: Array, norm: RMSNorm | None) -> Array:
    """Normalize y [B, N, d] and split it into heads, in the order that `qk_norm` asks for."""
    if norm is None:
      return self._split(y)
    return self._split(norm(y)) if self.qk_norm == 'width' else norm(self._split(y))
