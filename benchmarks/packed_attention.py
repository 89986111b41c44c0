"""Object attention by cuDNN: each object's queries and keys are a sequence packed beside others.

A peer of the Hopper kernels. cuDNN skips what lies between sequences, but a sequence is one run of
tokens. So it takes tokens with at most one object each, in the order of `sort_by_object`. That
depends on values and cannot be checked beforehand; a sample that breaks it gives NaN.

The interface to packed sequences is not a public one of JAX (0.10.2): offsets and lengths of cuDNN
9.6 or later, in `jax._src.cudnn`. It keeps float32 sums of all tokens for each of the 32 sets.
"""

import jax
import jax.numpy as jnp

from ttm_jax.ops.object_attention import gpu
from ttm_jax.ops.object_attention.api import IMPLEMENTATIONS, Implementation

try:
  from jax._src.cudnn.fused_attention_stablehlo import dot_product_attention
except ImportError:  # Another version of JAX may have it elsewhere.
  dot_product_attention = None  # type: ignore[assignment]

Array = jax.Array

BITS = 32
# What cuDNN takes on Hopper GPUs.
WIDEST = 256


def attention(q: Array, k: Array, v: Array, q_bits: Array, k_bits: Array) -> Array:
  """See `object_attention`; one bit at most a token, equal ones side by side."""
  q_first, q_length, q_fits = runs(q_bits)
  k_first, k_length, k_fits = runs(k_bits)
  # A set that one side lacks is no sequence. What is in no sequence, cuDNN neither reads nor
  # writes, so its memory may hold anything: it is hidden from both passes.
  both = (q_length > 0) & (k_length > 0)
  alive = _meets(q_bits, k_bits)
  read = _meets(k_bits, q_bits)
  q, k, v = jnp.where(alive, q, 0), jnp.where(read, k, 0), jnp.where(read, v, 0)
  q_length, k_length = (jnp.where(both, length, -1) for length in (q_length, k_length))
  # One more offset than sequences, which cuDNN does not look at.
  q_first, k_first = (
    jnp.pad(jnp.where(both, first, -1), ((0, 0), (0, 1)), constant_values=-1)
    for first in (q_first, k_first)
  )
  y = dot_product_attention(
    q,
    k,
    v,
    q_seqlen=q_length,
    kv_seqlen=k_length,
    q_offsets=q_first,
    kv_offsets=k_first,
    scale=q.shape[-1] ** -0.5,
  )
  fits = (q_fits & k_fits)[:, None, None, None]
  return jnp.where(fits, jnp.where(alive, y, 0), jnp.nan)


def runs(bits: Array) -> tuple[Array, Array, Array]:
  """Where the tokens of each set lie.

  Args:
    bits: int32 [B, N].

  Returns:
    int32 [B, 32], the first token with bit l, or N; int32 [B, 32], how many there are; bool [B],
    whether no token has two bits and those of a bit lie side by side.
  """
  n = bits.shape[1]
  has = (bits[:, :, None] >> jnp.arange(BITS, dtype=jnp.int32) & 1) != 0
  position = jnp.arange(n, dtype=jnp.int32)[:, None]
  first = jnp.where(has, position, n).min(1)
  last = jnp.where(has, position, -1).max(1)
  length = has.sum(1, dtype=jnp.int32)
  together = ((length == 0) | (last - first + 1 == length)).all(1)
  return first, length, together & ((bits & bits - 1) == 0).all(1)


def refuses(case) -> str | None:
  """Why a case cannot run here, None if it can; which tokens there are is not known before."""
  if case.head_dim % 8 or case.head_dim > WIDEST:
    return f'takes head dims that are multiples of 8 up to {WIDEST}, not {case.head_dim}'
  if dot_product_attention is None:
    return 'calls what this version of JAX does not have'
  return gpu.refuses_machine_or_type(case)


def _meets(bits: Array, others: Array) -> Array:
  """Which tokens share an object with some other; bool [B, N, 1, 1]."""
  union = jax.lax.reduce(others, jnp.int32(0), jax.lax.bitwise_or, (1,))
  return ((bits & union[:, None]) != 0)[:, :, None, None]


IMPLEMENTATIONS['packed'] = Implementation(
  lambda q, k, v, q_bits, k_bits, block_mask: attention(q, k, v, q_bits, k_bits), refuses=refuses
)
