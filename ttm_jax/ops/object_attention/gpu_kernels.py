"""The code of a thread block in the object attention kernels for Hopper GPUs; `gpu` launches them.

A thread block computes one row of blocks of one head. One warpgroup loads (TMA). The others compute
matrix products (WGMMA), 64 rows each. They synchronize through barriers in shared memory, as in
FlashAttention-3 (arXiv 2407.08608). In the forward pass, two groups alternate: while one computes
exponentials, the other uses the tensor cores.

In the backward pass, rows are blocks of keys. One traversal computes all three gradients with five
matrix products per block; separate traversals for queries and keys need seven. The groups alternate
here, too: each in turn sums the contributions of all keys of the thread block to the gradient of 64
queries. The sums are added to a float32 array in global memory. Thread blocks add in any order, so
the last bits of the queries' gradient differ from run to run.

Logits are scaled in float32. The same factor converts to base 2, since the hardware computes powers
of two.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ttm_jax.ops.object_attention.blocked import EMPTY, MASKED
from ttm_jax.ops.object_attention.blocks import FULL, PLACE_BITS

Array = jax.Array
Ref = Any

LOG2_E = math.log2(math.e)
# Rows that a warpgroup multiplies at once: the row count of a WGMMA instruction.
ROWS = 64
# Pipeline stages: blocks in shared memory, loading or in use.
STAGES = 2
# Head dimensions above WIDE are wide. For these, PIECE columns of the queries' gradient are summed
# at a time.
WIDE, PIECE = 128, 64
# Registers per thread of a computing warpgroup, by the number of these groups, and of the loading
# warpgroup. The loading group gives up most of its registers to the others. A group of 128 threads
# uses 128 times these numbers, out of 65 536 registers.
MULTIPLYING, FETCHING = {1: 256, 2: 240}, 24

# Register layouts of a WGMMA result, and of its row and column vectors.
MATRIX = plgpu.Layout.WGMMA
BY_ROW, BY_COLUMN = MATRIX.reduce(1), MATRIX.reduce(0)


def _per_row(x: Array, columns: int) -> Array:
  return lax.broadcast_in_dim(x, (x.shape[0], columns), [0])


def _per_column(x: Array, rows: int) -> Array:
  return lax.broadcast_in_dim(x, (rows, x.shape[0]), [1])


def _allowed(row_bits: Array, column_bits: Array) -> Array:
  """Return the mask of allowed pairs, bool [rows, columns]."""
  rows, columns = row_bits.shape[0], column_bits.shape[0]
  return (_per_row(row_bits, columns) & _per_column(column_bits, rows)) != 0


def _transposed(ref: Ref) -> Ref:
  return plgpu.transpose_ref(ref, (1, 0))


def _sum_of_products(*terms: tuple[Ref, Ref]) -> Array:
  """Return the sum of matrix products x y of operands in shared memory, accumulated in float32."""

  def add(total):
    for x, y in terms:
      plgpu.wgmma(total, x, y)
    return total[...]

  return pl.run_scoped(add, plgpu.ACC((terms[0][0].shape[0], terms[0][1].shape[1]), jnp.float32))


@dataclasses.dataclass(frozen=True)
class Row:
  """The row of blocks of this thread block, and its list of entries.

  Attributes:
    sample, head, row: position in the grid.
    first: index of the first entry of the row.
    count: number of entries with allowed pairs.
    place, what: arrays of the `BlockList`.
  """

  sample: Array
  head: Array
  row: Array
  first: Array
  count: Array
  place: Ref
  what: Ref

  @classmethod
  def here(cls, rows: int, place: Ref, what: Ref, start: Ref, runs: Ref) -> 'Row':
    """Return the row of the current thread block, out of `rows` rows of blocks per sample."""
    sample, head, row = (lax.axis_index(name) for name in ('samples', 'heads', 'rows'))
    line = sample * rows + row
    return cls(sample, head, row, start[line], runs[line], place, what)

  def column(self, entry: Array) -> Array:
    """Return the column of an entry of the row, in blocks."""
    return self.place[self.first + entry] & (1 << PLACE_BITS) - 1

  def full(self, entry: Array) -> Array:
    """Return whether all pairs of an entry are allowed."""
    return (self.what[self.first + entry] & FULL) != 0


def forward(q, q_bits, k, v, k_bits, place, what, start, runs, y, lse, *scratch, scale):
  """Compute y and lse of one row of blocks.

  In global memory: q, k, v, y [B, N, H, D], bits [B, N], lse [B, H, N]. Names that end in _s are
  blocks in shared memory.
  """
  q_s, k_s, v_s, q_bits_s, k_bits_s, lse_s, *barriers = scratch
  q_ready, k_ready, v_ready, k_free, v_free, turn = barriers
  groups, _, width = q_s.shape
  block_k = k_s.shape[1]
  here = Row.here(q_bits.shape[1] // (groups * ROWS), place, what, start, runs)
  group = lax.axis_index('group')
  factor = scale * LOG2_E
  # Initial value of the row maximum. Masked logits are so far below it that their weight is 0 even
  # before the row meets an allowed key. The weights therefore need no second mask.
  floor = MASKED * factor / 2

  def queries(group):
    return pl.ds((here.row * groups + group) * ROWS, ROWS)

  def pass_turn():
    plgpu.barrier_arrive(turn)
    plgpu.barrier_wait(turn)

  @pl.when(group < groups)
  def attend():
    plgpu.set_max_registers(MULTIPLYING[groups], action='increase')
    plgpu.barrier_wait(q_ready)

    def visit(entry, carry):
      top, total, out = carry
      slot = lax.rem(entry, STAGES)
      full = here.full(entry)
      plgpu.barrier_wait(k_ready.at[slot])

      def multiply(logits):
        plgpu.wgmma(logits, q_s.at[group], _transposed(k_s.at[slot]))
        # While the tensor cores compute this product, the other group may compute its exponentials.
        pass_turn()
        return logits[...]

      scores = pl.run_scoped(multiply, plgpu.ACC((ROWS, block_k), jnp.float32))

      def masked(scores):
        row_bits = plgpu.layout_cast(q_bits_s[group], BY_ROW)
        column_bits = plgpu.layout_cast(k_bits_s[slot], BY_COLUMN)
        return jnp.where(_allowed(row_bits, column_bits), scores, MASKED)

      scores = lax.cond(full, lambda scores: scores, masked, scores)
      plgpu.barrier_arrive(k_free.at[slot])
      new_top = jnp.maximum(top, scores.max(1) * factor)
      weights = jnp.exp2(scores * factor - _per_row(new_top, block_k))
      decay = jnp.exp2(top - new_top)
      total = total * decay + weights.sum(1)
      out *= _per_row(decay, width)
      # Complete these computations before the other group continues.
      new_top, total, out, weights = lax.optimization_barrier(
        (new_top, total, out, weights.astype(v.dtype))
      )
      plgpu.barrier_arrive(turn)
      plgpu.barrier_wait(v_ready.at[slot])
      plgpu.barrier_wait(turn)

      def add(sums):
        sums[...] = out
        plgpu.wgmma(sums, weights, v_s.at[slot])
        return sums[...]

      out = pl.run_scoped(add, plgpu.ACC((ROWS, width), jnp.float32))
      plgpu.barrier_arrive(v_free.at[slot])
      return new_top, total, out

    empty = (
      plgpu.layout_cast(jnp.full((ROWS,), floor, jnp.float32), BY_ROW),
      plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), BY_ROW),
      plgpu.layout_cast(jnp.zeros((ROWS, width), jnp.float32), MATRIX),
    )
    # The second group starts half a block later.
    pl.when(group == 1)(pass_turn)
    top, total, out = lax.fori_loop(0, here.count, visit, empty)
    pl.when(group == 0)(pass_turn)
    dead = total == 0
    total = jnp.where(dead, 1.0, total)
    q_s[group] = (out * _per_row(1 / total, width)).astype(y.dtype)
    lse_s[group] = jnp.where(dead, EMPTY, (top + jnp.log2(total)) / LOG2_E)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(q_s.at[group], y.at[here.sample, queries(group), here.head])
    plgpu.copy_smem_to_gmem(lse_s.at[group], lse.at[here.sample, here.head, queries(group)])
    plgpu.wait_smem_to_gmem(0)

  @pl.when(group == groups)
  def fetch():
    plgpu.set_max_registers(FETCHING, action='decrease')
    for each in range(groups):
      mine = queries(each)
      plgpu.copy_gmem_to_smem(q.at[here.sample, mine, here.head], q_s.at[each], q_ready)
      plgpu.copy_gmem_to_smem(q_bits.at[here.sample, mine], q_bits_s.at[each], q_ready)

    def fetch_one(entry, _):
      slot = lax.rem(entry, STAGES)
      used, more = entry >= STAGES, entry < here.count

      def copy(source, target, barrier):
        keys = pl.ds(here.column(entry) * block_k, block_k)
        plgpu.copy_gmem_to_smem(source(keys), target.at[slot], barrier.at[slot])

      pl.when(used)(lambda: plgpu.barrier_wait(k_free.at[slot]))

      @pl.when(more)
      def fetch_keys():
        copy(lambda keys: k.at[here.sample, keys, here.head], k_s, k_ready)
        copy(lambda keys: k_bits.at[here.sample, keys], k_bits_s, k_ready)

      pl.when(used)(lambda: plgpu.barrier_wait(v_free.at[slot]))

      @pl.when(more)
      def fetch_values():
        copy(lambda keys: v.at[here.sample, keys, here.head], v_s, v_ready)

    lax.fori_loop(0, here.count + STAGES, fetch_one, None)


def backward(
  k, v, k_bits, q, dy, stats, q_bits, place, what, start, runs, dq, dk, dv, *scratch, scale, parts
):
  """Compute the gradients of one row of blocks; rows are blocks of keys.

  Arrays are laid out as in `forward`. In addition, stats is float32 [B, H, 2, N]: lse (base 2) and
  delta. dq is a float32 array that the kernel adds to. A block of the list has `parts` times ROWS
  queries.
  """
  k_s, v_s, q_s, dy_s, slopes_s, dq_s, stats_s, bits_s, *barriers = scratch
  keys_ready, ready, free, slopes_ready = barriers
  groups, _, width = k_s.shape
  here = Row.here(k_bits.shape[1] // (groups * ROWS), place, what, start, runs)
  group = lax.axis_index('group')
  steps = here.count * parts
  # For wide heads, the two accumulators leave registers for only one further matrix at a time.
  wide = width > WIDE
  piece = PIECE if wide else width
  pieces = [pl.ds(i, min(piece, width - i)) for i in range(0, width, piece)]

  def keys(group):
    return pl.ds((here.row * groups + group) * ROWS, ROWS)

  def queries(step):
    block = here.column(lax.div(step, parts))
    return pl.ds((block * parts + lax.rem(step, parts)) * ROWS, ROWS)

  def visit(dk_sum, dv_sum, step):
    # Without the barrier, the compiler treats the group index as a constant. It then keeps
    # precomputed addresses in more registers than a thread has.
    mine = lax.optimization_barrier(group)
    slot, turn = lax.rem(step, STAGES), lax.rem(step, groups)
    full = here.full(lax.div(step, parts))
    plgpu.barrier_wait(ready.at[slot])

    def weigh(scores):
      lse = plgpu.layout_cast(stats_s[slot, 0], BY_COLUMN)
      weights = jnp.exp2(scores * (scale * LOG2_E) - _per_column(lse, ROWS))

      def masked(weights):
        row_bits = plgpu.layout_cast(bits_s[STAGES + mine], BY_ROW)
        column_bits = plgpu.layout_cast(bits_s[slot], BY_COLUMN)
        return jnp.where(_allowed(row_bits, column_bits), weights, 0.0)

      return lax.optimization_barrier(lax.cond(full, lambda weights: weights, masked, weights))

    def both(scores, dweights):
      plgpu.wgmma(scores, k_s.at[mine], _transposed(q_s.at[slot]))
      plgpu.wgmma(dweights, v_s.at[mine], _transposed(dy_s.at[slot]))
      weights = weigh(lax.optimization_barrier(plgpu.wgmma_accumulator_load(scores, wait_n=1)))
      return weights, lax.optimization_barrier(dweights[...])

    if wide:
      weights = weigh(_sum_of_products((k_s.at[mine], _transposed(q_s.at[slot]))))
      dweights = _sum_of_products((v_s.at[mine], _transposed(dy_s.at[slot])))
    else:
      weights, dweights = pl.run_scoped(both, *[plgpu.ACC((ROWS, ROWS), jnp.float32)] * 2)
    delta = plgpu.layout_cast(stats_s[slot, 1], BY_COLUMN)
    slopes = (weights * (dweights - _per_column(delta, ROWS))).astype(q.dtype)
    weights = weights.astype(dy.dtype)
    plgpu.wgmma(dv_sum, weights, dy_s.at[slot])

    # It is safe to overwrite this buffer. The group that last read it has finished: since then,
    # this group had its turn, for which it waited for all others.
    slopes_s[turn, mine] = slopes
    plgpu.commit_smem()
    plgpu.barrier_arrive(slopes_ready.at[turn])
    plgpu.wgmma(dk_sum, slopes_s.at[turn, mine], q_s.at[slot])

    @pl.when(turn == group)
    def sum_over_keys():
      plgpu.barrier_wait(slopes_ready.at[turn])
      # Wait until the previous copy has read this buffer.
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      for columns in pieces:
        terms = [(_transposed(slopes_s.at[turn, i]), k_s.at[i, :, columns]) for i in range(groups)]
        dq_s[mine, :, columns] = _sum_of_products(*terms)
      plgpu.commit_smem()
      total = dq.at[here.sample, queries(step), here.head]
      plgpu.copy_smem_to_gmem(dq_s.at[mine], total, reduction_op='add')

    plgpu.wgmma_wait(0)
    plgpu.barrier_arrive(free.at[slot])

  @pl.when(group < groups)
  def attend():
    plgpu.set_max_registers(MULTIPLYING[groups], action='increase')
    plgpu.barrier_wait(keys_ready)

    def walk(dk_sum, dv_sum):
      lax.fori_loop(0, steps, lambda step, _: visit(dk_sum, dv_sum, step), None)
      return dk_sum[...] * scale, dv_sum[...]

    long = plgpu.ACC((ROWS, width), jnp.float32)
    sums = pl.run_scoped(walk, long, long)
    for target, total in zip((dk, dv), sums, strict=True):
      # This block of values is no longer read, so its memory can hold the results.
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      v_s[group] = total.astype(target.dtype)
      plgpu.commit_smem()
      plgpu.copy_smem_to_gmem(v_s.at[group], target.at[here.sample, keys(group), here.head])
    plgpu.wait_smem_to_gmem(0)

  @pl.when(group == groups)
  def fetch():
    plgpu.set_max_registers(FETCHING, action='decrease')
    for each in range(groups):
      mine = keys(each)
      plgpu.copy_gmem_to_smem(k.at[here.sample, mine, here.head], k_s.at[each], keys_ready)
      plgpu.copy_gmem_to_smem(v.at[here.sample, mine, here.head], v_s.at[each], keys_ready)
      plgpu.copy_gmem_to_smem(k_bits.at[here.sample, mine], bits_s.at[STAGES + each], keys_ready)

    def fetch_one(step, _):
      slot = lax.rem(step, STAGES)
      pl.when(step >= STAGES)(lambda: plgpu.barrier_wait(free.at[slot]))

      @pl.when(step < steps)
      def fetch_queries():
        mine, barrier = queries(step), ready.at[slot]
        plgpu.copy_gmem_to_smem(q.at[here.sample, mine, here.head], q_s.at[slot], barrier)
        plgpu.copy_gmem_to_smem(dy.at[here.sample, mine, here.head], dy_s.at[slot], barrier)
        plgpu.copy_gmem_to_smem(
          stats.at[here.sample, here.head, :, mine], stats_s.at[slot], barrier
        )
        plgpu.copy_gmem_to_smem(q_bits.at[here.sample, mine], bits_s.at[slot], barrier)

    lax.fori_loop(0, steps + STAGES, fetch_one, None)
