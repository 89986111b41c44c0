"""Named implementations of object attention behind one function."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ttm_jax.ops.object_attention import chunked, reference

Array = jax.Array

IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
  'reference': reference.attention,
  'chunked': chunked.attention,
}

# Dense scores up to this many pairs a head cost less than the bookkeeping of blocks.
DENSE_PAIRS = 1 << 20


def object_attention(
  q: Array,
  k: Array,
  v: Array,
  q_bits: Array,
  k_bits: Array,
  *,
  implementation: str | Sequence[str] | None = None,
) -> Array:
  """Softmax attention among tokens whose object sets meet.

  Query i attends to key j iff `q_bits[i] & k_bits[j] != 0`. A query that may attend to nothing
  returns exactly 0 and passes no gradient. Logits are scaled by 1/sqrt(D); softmax is float32.

  Args:
    q: [B, N, H, D].
    k, v: [B, M, H, D].
    q_bits: int32 [B, N], the object set of each query: bit 0 is the background, bit l object l.
    k_bits: int32 [B, M], likewise.
    implementation: a name of `IMPLEMENTATIONS`, or several in order of preference; None chooses
      by size.

  Returns:
    [B, N, H, D], in the dtype of v.

  Raises:
    ValueError: for shapes that do not fit, dtypes of the bits, or an unknown implementation.
  """
  _check(q, k, v, q_bits, k_bits)
  if implementation is None:
    small = q.shape[1] * k.shape[1] <= DENSE_PAIRS
    implementation = 'reference' if small else 'chunked'
  names = [implementation] if isinstance(implementation, str) else list(implementation)
  for name in names:
    if name in IMPLEMENTATIONS:
      return IMPLEMENTATIONS[name](q, k, v, q_bits, k_bits)
  raise ValueError(f'implementation must be among {sorted(IMPLEMENTATIONS)}, got {names}')


def _check(q: Array, k: Array, v: Array, q_bits: Array, k_bits: Array) -> None:
  b, n, h, d = q.shape
  m = k.shape[1]
  if k.shape != (b, m, h, d) or v.shape != (b, m, h, d):
    raise ValueError(f'q {q.shape} asks for k and v of {(b, "M", h, d)}, got {k.shape}, {v.shape}')
  if q_bits.shape != (b, n) or k_bits.shape != (b, m):
    raise ValueError(
      f'bits must be {(b, n)} for queries and {(b, m)} for keys,'
      f' got {q_bits.shape} and {k_bits.shape}'
    )
  if q_bits.dtype != jnp.int32 or k_bits.dtype != jnp.int32:
    raise ValueError(f'bits must be int32, got {q_bits.dtype} and {k_bits.dtype}')
