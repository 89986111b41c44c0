"""Object attention by cuDNN with packed sequences: the tokens of each object form one sequence.

A baseline for the Hopper kernels. cuDNN skips pairs from different sequences, but a sequence must
be contiguous. So each token must have at most one object, and tokens must be in the order of
`sort_by_object`. This depends on values and cannot be checked in advance; a sample that violates it
yields NaN.

The interface to packed sequences is private in JAX (0.10.2): offsets and lengths for cuDNN 9.6 or
later, in `jax._src.cudnn`. It stores float32 softmax statistics of all tokens for each of the 32
object bits.
"""

import jax
import jax.numpy as jnp

from ttm_jax.ops.object_attention import gpu
from ttm_jax.ops.object_attention.api import IMPLEMENTATIONS, Implementation

try:
  from jax._src.cudnn.fused_attention_stablehlo import dot_product_attention
except ImportError:  # The private module may move between JAX versions.
  dot_product_attention = None  # type: ignore[assignment]

Array = jax.Array

BITS = 32
# The largest head dimension that cuDNN supports on Hopper GPUs.
WIDEST = 256


def attention(q: Array, k: Array, v: Array, q_bits: Array, k_bits: Array) -> Array:
  """Compute object attention with cuDNN; for shapes see `object_attention`.

  Each token must have at most one bit, and tokens with equal bits must be contiguous. Samples that
  violate this yield NaN.
  """
  q_first, q_length, q_fits = runs(q_bits)
  k_first, k_length, k_fits = runs(k_bits)
  # Bits that only one side has form no sequence. cuDNN neither reads nor writes tokens outside
  # sequences, so their output is undefined: mask them in both passes.
  both = (q_length > 0) & (k_length > 0)
  alive = _meets(q_bits, k_bits)
  read = _meets(k_bits, q_bits)
  q, k, v = jnp.where(alive, q, 0), jnp.where(read, k, 0), jnp.where(read, v, 0)
  q_length, k_length = (jnp.where(both, length, -1) for length in (q_length, k_length))
  # cuDNN expects one more offset than sequences, and ignores the last.
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
  """Locate the tokens of each bit.

  Args:
    bits: object sets, int32 [B, N].

  Returns:
    The first token with bit l, or N if there is none, int32 [B, 32]; the number of tokens with bit
    l, int32 [B, 32]; and whether no token has two bits and the tokens of each bit are contiguous,
    bool [B].
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
  """Return why a case is not supported, or None if it is. Does not check the token order."""
  if case.head_dim % 8 or case.head_dim > WIDEST:
    return f'takes head dims that are multiples of 8 up to {WIDEST}, not {case.head_dim}'
  if dot_product_attention is None:
    return 'calls what this version of JAX does not have'
  return gpu.refuses_machine_or_type(case)


def _meets(bits: Array, others: Array) -> Array:
  """Return which tokens share an object with any token of `others`, bool [B, N, 1, 1]."""
  union = jax.lax.reduce(others, jnp.int32(0), jax.lax.bitwise_or, (1,))
  return ((bits & union[:, None]) != 0)[:, :, None, None]


IMPLEMENTATIONS['packed'] = Implementation(
  lambda q, k, v, q_bits, k_bits, block_mask: attention(q, k, v, q_bits, k_bits), refuses=refuses
)
