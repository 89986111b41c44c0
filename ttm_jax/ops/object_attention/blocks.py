"""Lists of the score-matrix blocks that contain an allowed pair: the blocks that kernels visit.

The score matrix of a sample is divided into blocks of (queries, keys). A block is visited iff the
OR of its query sets shares a bit with the OR of its key sets. That holds exactly if the block has
an allowed pair. A block whose pairs are all allowed needs no mask. The lists are built once per
batch and shared by all layers.
"""

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array

# Flags of an entry: it is the first of its row of blocks; it is the last; it has allowed pairs; it
# has only allowed pairs.
FIRST, LAST, RUN, FULL = 1, 2, 4, 8
FLAG_BITS = 4
PLACE_BITS = 16


@flax.struct.dataclass
class BlockList:
  """The blocks to visit, ordered by sample, then by row (block-sparse rows over the batch).

  A row without an allowed pair has one entry without RUN, so that its result is also written.

  Attributes:
    place: int32 [A], row << 16 | column of each entry, in units of blocks within one sample.
    what: int32 [A], sample << 4 | flags.
    count: int32 [1], the number of valid entries; A is the upper bound.
    start: int32 [B R], the index of the first entry of each row of blocks.
    runs: int32 [B R], the number of entries of each row that have allowed pairs.
  """

  place: Array
  what: Array
  count: Array
  start: Array
  runs: Array


@flax.struct.dataclass
class BlockMask:
  """The selected implementation for two arrays of object sets, and its block lists for both passes.

  Attributes:
    by_query: rows are blocks of queries (forward pass, gradient of the queries).
    by_key: rows are blocks of keys (gradients of keys and values).
    block: (queries, keys) of one block.
    implementation: a name of `api.IMPLEMENTATIONS`. The lists are empty for an implementation that
      computes all pairs.
  """

  by_query: BlockList
  by_key: BlockList
  block: tuple[int, int] = flax.struct.field(pytree_node=False)
  implementation: str = flax.struct.field(pytree_node=False)


def list_blocks(
  q_bits: Array, k_bits: Array, block: tuple[int, int], implementation: str
) -> BlockMask:
  """Return the lists of blocks that contain an allowed pair.

  Args:
    q_bits: int32 [B, N].
    k_bits: int32 [B, M]. Padding tokens of the last block have empty object sets.
    block: (queries, keys) of one block.
    implementation: name of the implementation that uses the lists.

  Raises:
    ValueError: if a sample has too many blocks for the 16-bit indices of `BlockList.place`.
  """
  queries = _cut(q_bits, block[0])
  keys = _cut(k_bits, block[1])
  some = (_any(queries)[:, :, None] & _any(keys)[:, None]) != 0
  # A block is full if the objects shared by all its queries meet every key set, or the reverse.
  # This test misses blocks that are full only through a mix of sets. Their mask is then computed
  # unnecessarily, but the result is correct.
  full = jnp.all((_all(queries)[:, :, None, None] & keys[:, None]) != 0, -1)
  full |= jnp.all((_all(keys)[:, None, :, None] & queries[:, :, None]) != 0, -1)

  def turned(x):
    return jnp.swapaxes(x, 1, 2)

  return BlockMask(_list(some, full), _list(turned(some), turned(full)), block, implementation)


def no_blocks(implementation: str) -> BlockMask:
  """Return the block mask of an implementation that computes all pairs: empty lists."""
  nothing = jnp.zeros((0,), jnp.int32)
  empty = BlockList(nothing, nothing, nothing, nothing, nothing)
  return BlockMask(empty, empty, (0, 0), implementation)


def fill_up(x: Array, block: int, axis: int) -> Array:
  """Pad an axis with zeros to a multiple of the block size."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % block)
  return jnp.pad(x, widths)


def _cut(bits: Array, block: int) -> Array:
  """Reshape int32 [B, N] to [B, blocks, block], with zero padding."""
  return fill_up(bits, block, 1).reshape(bits.shape[0], -1, block)


def _any(bits: Array) -> Array:
  return jax.lax.reduce(bits, jnp.int32(0), jax.lax.bitwise_or, (bits.ndim - 1,))


def _all(bits: Array) -> Array:
  return jax.lax.reduce(bits, jnp.int32(-1), jax.lax.bitwise_and, (bits.ndim - 1,))


def _list(some: Array, full: Array) -> BlockList:
  """Return the entries of bool [B, R, C] arrays in row order."""
  b, rows, columns = some.shape
  if max(rows, columns) >= 1 << PLACE_BITS - 1:
    raise ValueError(f'{rows} x {columns} blocks a sample are too many: take larger blocks')
  idle = ~some.any(-1, keepdims=True) & (jnp.arange(columns) == 0)
  most = b * rows * columns
  # Entries past the last one point to the very last block, which is valid to read.
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
