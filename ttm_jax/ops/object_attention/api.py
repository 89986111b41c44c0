"""Object attention behind one function, with a choice of named implementations."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ttm_jax.errors import nearest
from ttm_jax.ops.object_attention import blocked, chunked, reference
from ttm_jax.ops.object_attention.blocks import BlockMask, list_blocks, no_blocks
from ttm_jax.parallel.mesh import platform
from ttm_jax.parallel.sharded_attention import over_heads, per_sample, samples_of_a_device

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Case:
  """The properties that determine the implementation and its block sizes.

  Attributes:
    queries, keys: N and M.
    head_dim: D.
    dtype: dtype of q, k and v.
    platform: 'cpu', 'gpu' or 'tpu', where the computation will run.
    samples: batch size B per device.
  """

  queries: int
  keys: int
  head_dim: int
  dtype: jnp.dtype
  platform: str
  samples: int = 1


@dataclasses.dataclass(frozen=True)
class Implementation:
  """One implementation of object attention.

  Attributes:
    attend: called as (q, k, v, q_bits, k_bits, block_mask), see `object_attention`.
    block: returns the (queries, keys) of a block for a case; None for an implementation without a
      block mask.
    refuses: returns why the implementation does not support a case, or None if it does.
  """

  attend: Callable[..., Array]
  block: Callable[[Case], tuple[int, int]] | None = None
  refuses: Callable[[Case], str | None] = lambda case: None


def _without_block_mask(attend: Callable[..., Array]) -> Callable[..., Array]:
  return lambda q, k, v, q_bits, k_bits, block_mask: attend(q, k, v, q_bits, k_bits)


def _blocked(kernel: blocked.Kernel) -> Callable[..., Array]:
  return lambda *args: blocked.attention(kernel, *args)


def _pallas(module: Callable[[], Any]) -> Implementation:
  """Return the implementation of a module with a Pallas kernel."""
  return Implementation(
    lambda *args: blocked.attention(module().KERNEL, *args),
    lambda case: module().block(case),
    lambda case: module().refuses(case),
  )


# Pallas takes longer to import than the rest of a network, so only what a platform needs is.


def _tpu() -> Any:
  from ttm_jax.ops.object_attention import tpu

  return tpu


def _splash() -> Any:
  from ttm_jax.ops.object_attention import splash

  return splash


def _gpu() -> Any:
  from ttm_jax.ops.object_attention import gpu

  return gpu


IMPLEMENTATIONS: dict[str, Implementation] = {
  'reference': Implementation(_without_block_mask(reference.attention)),
  'chunked': Implementation(_blocked(chunked.KERNEL), chunked.block),
  'tpu': _pallas(_tpu),
  'splash': Implementation(
    lambda *args: _splash().attention(*args),
    lambda case: _splash().block(case),
    lambda case: _splash().refuses(case),
  ),
  'gpu': _pallas(_gpu),
}

# The implementations that `implementation=None` tries on each platform, before FALLBACK, which runs
# everywhere.
PREFERRED = {'gpu': ['gpu'], 'tpu': ['tpu']}
FALLBACK = 'chunked'

# Up to this many query-key pairs per head, dense scores are faster than block lists.
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
  """Compute softmax attention between tokens whose object sets intersect.

  Query i attends to key j iff `q_bits[i] & k_bits[j] != 0`. A query without an allowed key returns
  exactly 0 and has zero gradient. Logits are scaled by 1/sqrt(D). The softmax is computed in
  float32. Blocks of the score matrix without an allowed pair are skipped. Sort the tokens with
  `sort_by_object` first; in raster order there are hardly any such blocks.

  Under a mesh (`jax.set_mesh`), each device computes its samples and its share of the heads over
  all tokens (see `over_heads`).

  Args:
    q: [B, N, H, D].
    k: [B, M, H, D].
    v: [B, M, H, D].
    q_bits: int32 [B, N], the object set of each query: bit 0 is the background, bit l is object l.
    k_bits: int32 [B, M], the object set of each key.
    block_mask: result of `make_block_mask` for the same bits, so that several layers can share it.
    implementation: a name of `IMPLEMENTATIONS`, or several in order of preference; the first that
      supports the case is used. None selects by platform and size. With a block mask, leave it at
      None or give the implementation of the mask.

  Returns:
    [B, N, H, D], in the dtype of v.

  Raises:
    ValueError: if shapes do not match, bits are not int32, or a device count does not divide the
      heads. Also if an implementation is unknown or does not support the case, or the block mask
      belongs to another implementation.
  """
  _check(q, k, v, q_bits, k_bits)
  if block_mask is None:
    block_mask = make_block_mask(
      q_bits, k_bits, head_dim=q.shape[3], dtype=q.dtype, implementation=implementation
    )
  elif implementation is not None and block_mask.implementation not in _names(implementation):
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
  """Select an implementation and list the blocks it visits; call it once per batch.

  Args:
    q_bits: int32 [B, N], see `object_attention`.
    k_bits: int32 [B, M].
    head_dim: D of the queries.
    dtype: dtype of q, k and v.
    implementation: see `object_attention`.

  Returns:
    The block mask, which all layers with these object sets can share.

  Raises:
    ValueError: if an implementation is unknown or does not support the case, or a sample has too
      many blocks.
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
  """Return the name of the implementation that will compute a case.

  Args:
    case: the properties of the computation.
    implementation: see `object_attention`.

  Raises:
    ValueError: if a name is unknown, or no named implementation supports the case.
  """
  if implementation is None:
    small = case.queries * case.keys <= DENSE_PAIRS.get(case.platform, 0)
    preferred = [*PREFERRED.get(case.platform, ()), FALLBACK]
    implementation = ['reference'] if small else preferred
  names = _names(implementation)
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


def _names(implementation: str | Sequence[str]) -> list[str]:
  return [implementation] if isinstance(implementation, str) else list(implementation)


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
