"""Named implementations of object attention behind one function."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ttm_jax.errors import nearest
from ttm_jax.ops.object_attention import blocked, chunked, gpu, reference, splash, tpu
from ttm_jax.ops.object_attention.blocks import BlockMask, list_blocks, no_blocks
from ttm_jax.parallel.mesh import platform
from ttm_jax.parallel.sharded_attention import over_heads, per_sample, samples_of_a_device

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Case:
  """What the choice of an implementation and of its blocks may depend on.

  Attributes:
    queries, keys: N and M.
    head_dim: D.
    dtype: of q, k and v.
    platform: 'cpu', 'gpu' or 'tpu', where the computation will run.
    samples: B of one device.
  """

  queries: int
  keys: int
  head_dim: int
  dtype: jnp.dtype
  platform: str
  samples: int = 1


@dataclasses.dataclass(frozen=True)
class Implementation:
  """One way to compute object attention.

  Attributes:
    attend: called as (q, k, v, q_bits, k_bits, block_mask), see `object_attention`.
    block: (queries, keys) of a block for a case; None for an implementation without a block mask.
    refuses: why a case is not for it, None where it is.
  """

  attend: Callable[..., Array]
  block: Callable[[Case], tuple[int, int]] | None = None
  refuses: Callable[[Case], str | None] = lambda case: None


def _without_block_mask(attend: Callable[..., Array]) -> Callable[..., Array]:
  return lambda q, k, v, q_bits, k_bits, block_mask: attend(q, k, v, q_bits, k_bits)


def _blocked(kernel: blocked.Kernel) -> Callable[..., Array]:
  return lambda *args: blocked.attention(kernel, *args)


IMPLEMENTATIONS: dict[str, Implementation] = {
  'reference': Implementation(_without_block_mask(reference.attention)),
  'chunked': Implementation(_blocked(chunked.KERNEL), chunked.block),
  'tpu': Implementation(_blocked(tpu.KERNEL), tpu.block, tpu.refuses),
  'splash': Implementation(splash.attention, splash.block, splash.refuses),
  'gpu': Implementation(_blocked(gpu.KERNEL), gpu.block, gpu.refuses),
}

# What None tries by platform, before the one that works everywhere.
PREFERRED = {'gpu': ['gpu'], 'tpu': ['tpu']}
FALLBACK = 'chunked'

# Dense scores up to this many pairs a head cost less than the bookkeeping of blocks.
DENSE_PAIRS = {'cpu': 1 << 20, 'gpu': 1 << 16, 'tpu': 1 << 16}


def object_attention(
  q: Array,
  k: Array,
  v: Array,
  q_bits: Array,
  k_bits: Array,
  *,
  block_mask: BlockMask | None = None,
  implementation: str | Sequence[str] | None = None,
) -> Array:
  """Softmax attention among tokens whose object sets meet.

  Query i attends to key j iff `q_bits[i] & k_bits[j] != 0`. A query that may attend to nothing
  returns exactly 0 and passes no gradient. Logits are scaled by 1/sqrt(D); softmax is float32.
  Blocks of the score matrix without an allowed pair are skipped: bring the tokens into the order of
  `sort_by_object` first, or there are hardly any.

  On a mesh in force (`jax.set_mesh`) each device computes its samples, and its share of the heads
  over all tokens (see `over_heads`).

  Args:
    q: [B, N, H, D].
    k, v: [B, M, H, D].
    q_bits: int32 [B, N], the object set of each query: bit 0 is the background, bit l object l.
    k_bits: int32 [B, M], likewise.
    block_mask: of `make_block_mask` for the same bits, where several layers share them.
    implementation: a name of `IMPLEMENTATIONS`, or several in order of preference, of which the
      first that can is taken; None chooses by platform and size. With a block mask it is its own.

  Returns:
    [B, N, H, D], in the dtype of v.

  Raises:
    ValueError: for shapes that do not fit, dtypes of the bits, or an implementation that is unknown
      or cannot do it.
  """
  _check(q, k, v, q_bits, k_bits)
  if block_mask is None:
    block_mask = make_block_mask(
      q_bits, k_bits, head_dim=q.shape[3], dtype=q.dtype, implementation=implementation
    )
  elif implementation is not None and block_mask.implementation != implementation:
    raise ValueError(
      f'the block mask is for implementation {block_mask.implementation!r},'
      f' not for {implementation!r}'
    )
  attend = IMPLEMENTATIONS[block_mask.implementation].attend
  return over_heads(attend, q, k, v, q_bits, k_bits, block_mask)


def make_block_mask(
  q_bits: Array,
  k_bits: Array,
  *,
  head_dim: int,
  dtype: jnp.dtype,
  implementation: str | Sequence[str] | None = None,
) -> BlockMask:
  """Chooses an implementation and lists the blocks it will visit; once a batch, for every layer.

  Args:
    q_bits: int32 [B, N]; k_bits: int32 [B, M]; see `object_attention`.
    head_dim: D of the queries; dtype: theirs.
    implementation: see `object_attention`.

  Raises:
    ValueError: see `object_attention`.
  """
  case = Case(
    queries=q_bits.shape[1],
    keys=k_bits.shape[1],
    head_dim=head_dim,
    dtype=jnp.dtype(dtype),
    platform=platform(),
    samples=samples_of_a_device(q_bits.shape[0]),
  )
  name = choose(case, implementation)
  block = IMPLEMENTATIONS[name].block
  if block is None:
    return no_blocks(name)
  sizes = block(case)
  return per_sample(lambda q, k: list_blocks(q, k, sizes, name), q_bits, k_bits)


def choose(case: Case, implementation: str | Sequence[str] | None = None) -> str:
  """The name of the implementation that a case will run on.

  Raises:
    ValueError: if a name is unknown, or none can do it.
  """
  if implementation is None:
    small = case.queries * case.keys <= DENSE_PAIRS.get(case.platform, 0)
    preferred = [*PREFERRED.get(case.platform, ()), FALLBACK]
    implementation = ['reference'] if small else preferred
  names = [implementation] if isinstance(implementation, str) else list(implementation)
  reasons = []
  for name in names:
    if name not in IMPLEMENTATIONS:
      raise ValueError(
        f'object attention has no implementation {name!r}{nearest(name, IMPLEMENTATIONS)}:'
        f' there are {sorted(IMPLEMENTATIONS)}'
      )
    reason = IMPLEMENTATIONS[name].refuses(case)
    if reason is None:
      return name
    reasons.append(f'{name} {reason}')
  raise ValueError(f'no implementation of object attention can do it: {"; ".join(reasons)}')


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
