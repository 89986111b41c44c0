"""Which blocks of the score matrix hold an allowed pair: what the kernels visit, and nothing else.

The score matrix of a sample is cut into blocks of (queries, keys). A block is visited iff one of
its pairs is allowed, which the OR of the object sets on either side tells exactly; a block all of
whose pairs are allowed needs no mask. The lists are made once a batch and serve every layer.
"""

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array

# What a kernel does at an entry: it begins a row of blocks, it ends one, it has allowed pairs, it
# has no others.
FIRST, LAST, RUN, FULL = 1, 2, 4, 8
FLAG_BITS = 4
PLACE_BITS = 16


@flax.struct.dataclass
class BlockList:
  """The blocks to visit, row after row, sample after sample (block-sparse rows over the batch).

  A row without any allowed pair has one entry without RUN, so that its result is written too.

  Attributes:
    place: int32 [A], row << 16 | column of each entry, counted in blocks of one sample.
    what: int32 [A], sample << 4 | flags.
    count: int32 [1], how many entries count; A is the most there could be.
    start: int32 [B R], the first entry of each row of blocks.
    runs: int32 [B R], how many entries of each row have allowed pairs.
  """

  place: Array
  what: Array
  count: Array
  start: Array
  runs: Array


@flax.struct.dataclass
class BlockMask:
  """The implementation that two object sets are attended with, and its lists for both passes.

  Attributes:
    by_query: rows are blocks of queries (forward, gradient of the queries).
    by_key: rows are blocks of keys (gradients of keys and values).
    block: (queries, keys) of one block.
    implementation: a name of `api.IMPLEMENTATIONS`; for one that goes over all pairs the lists are
      empty.
  """

  by_query: BlockList
  by_key: BlockList
  block: tuple[int, int] = flax.struct.field(pytree_node=False)
  implementation: str = flax.struct.field(pytree_node=False)


def list_blocks(
  q_bits: Array, k_bits: Array, block: tuple[int, int], implementation: str
) -> BlockMask:
  """Lists the blocks that hold an allowed pair.

  Args:
    q_bits: int32 [B, N]; k_bits: int32 [B, M]. Tokens that fill up the last block have no objects.
    block: (queries, keys) of one block.
    implementation: whom they are for.
  """
  queries = _cut(q_bits, block[0])
  keys = _cut(k_bits, block[1])
  some = (_any(queries)[:, :, None] & _any(keys)[:, None]) != 0
  # Full where the objects that all queries share meet every key, or the other way round. That
  # misses blocks that are full by a mix of sets only; their mask is computed in vain.
  full = jnp.all((_all(queries)[:, :, None, None] & keys[:, None]) != 0, -1)
  full |= jnp.all((_all(keys)[:, None, :, None] & queries[:, :, None]) != 0, -1)

  def turned(x):
    return jnp.swapaxes(x, 1, 2)

  return BlockMask(_list(some, full), _list(turned(some), turned(full)), block, implementation)


def no_blocks(implementation: str) -> BlockMask:
  """The block mask of an implementation that goes over all pairs."""
  nothing = jnp.zeros((0,), jnp.int32)
  empty = BlockList(nothing, nothing, nothing, nothing, nothing)
  return BlockMask(empty, empty, (0, 0), implementation)


def fill_up(x: Array, block: int, axis: int) -> Array:
  """Pads an axis with zeros to a multiple of the block."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % block)
  return jnp.pad(x, widths)


def _cut(bits: Array, block: int) -> Array:
  """int32 [B, N] -> [B, blocks, block]."""
  return fill_up(bits, block, 1).reshape(bits.shape[0], -1, block)


def _any(bits: Array) -> Array:
  return jax.lax.reduce(bits, jnp.int32(0), jax.lax.bitwise_or, (bits.ndim - 1,))


def _all(bits: Array) -> Array:
  return jax.lax.reduce(bits, jnp.int32(-1), jax.lax.bitwise_and, (bits.ndim - 1,))


def _list(some: Array, full: Array) -> BlockList:
  """bool [B, R, C] each -> their entries in row order."""
  b, rows, columns = some.shape
  if max(rows, columns) >= 1 << PLACE_BITS - 1:
    raise ValueError(f'{rows} x {columns} blocks a sample are too many: take larger blocks')
  idle = ~some.any(-1, keepdims=True) & (jnp.arange(columns) == 0)
  most = b * rows * columns
  # Past the last entry the index stays at the last block of all, which is harmless to look at.
  flat = jnp.nonzero((some | idle).reshape(-1), size=most, fill_value=most - 1)[0]
  flat = flat.astype(jnp.int32)
  lengths = (some | idle).sum(-1, dtype=jnp.int32).reshape(-1)
  ends = jnp.cumsum(lengths, dtype=jnp.int32)
  entry, line = jnp.arange(most), flat // columns
  flags = (
    FIRST * (entry == (ends - lengths)[line])
    + LAST * (entry == ends[line] - 1)
    + RUN * some.reshape(-1)[flat]
    + FULL * (some & full).reshape(-1)[flat]
  )
  return BlockList(
    place=(line % rows) << PLACE_BITS | flat % columns,
    what=(line // rows) << FLAG_BITS | flags.astype(jnp.int32),
    count=ends[-1:],
    start=ends - lengths,
    runs=some.sum(-1, dtype=jnp.int32).reshape(-1),
  )
