"""What the thread blocks of object attention's kernels for Hopper GPUs do; launched by `gpu`.

A thread block takes one row of blocks of one head. One warpgroup fetches (TMA), the others multiply
(WGMMA), 64 rows each, and synchronise through barriers in shared memory, as in FlashAttention-3
(arXiv 2407.08608). Forward, two groups take turns: while one computes exponentials, the other has
the tensor cores.

Backward, rows are keys and there is one walk for all three gradients (five matrix products a
block, where separate walks for queries and keys need seven). The groups take turns again, here at
summing what all their keys give to 64 queries; the sums are added to float32 in global memory.
Thread blocks do so in any order: the queries' gradient differs in its last bits from run to run.

Logits are scaled in float32, together with the change to powers of two that the hardware computes.
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
# Rows that a warpgroup multiplies at once: what WGMMA takes.
ROWS = 64
# Blocks that are under way to shared memory while another is multiplied, that one included.
STAGES = 2
# Head dimensions above this are wide, and of wide ones, the columns of the queries' gradient that
# are summed at once.
WIDE, PIECE = 128, 64
# Registers of a thread, by how many groups multiply: the one that fetches leaves most of its own to
# them. Of 65 536 there are, a group of 128 threads has 128 times these.
MULTIPLYING, FETCHING = {1: 256, 2: 240}, 24

# How rows and columns of a matrix that WGMMA yields lie in registers.
MATRIX = plgpu.Layout.WGMMA
BY_ROW, BY_COLUMN = MATRIX.reduce(1), MATRIX.reduce(0)


def _per_row(x: Array, columns: int) -> Array:
  return lax.broadcast_in_dim(x, (x.shape[0], columns), [0])


def _per_column(x: Array, rows: int) -> Array:
  return lax.broadcast_in_dim(x, (rows, x.shape[0]), [1])


def _allowed(row_bits: Array, column_bits: Array) -> Array:
  """bool [rows, columns]."""
  rows, columns = row_bits.shape[0], column_bits.shape[0]
  return (_per_row(row_bits, columns) & _per_column(column_bits, rows)) != 0


def _transposed(ref: Ref) -> Ref:
  return plgpu.transpose_ref(ref, (1, 0))


def _sum_of_products(*terms: tuple[Ref, Ref]) -> Array:
  """The sum of matrix products x y of what lies in shared memory."""

  def add(total):
    for x, y in terms:
      plgpu.wgmma(total, x, y)
    return total[...]

  return pl.run_scoped(add, plgpu.ACC((terms[0][0].shape[0], terms[0][1].shape[1]), jnp.float32))


@dataclasses.dataclass(frozen=True)
class Row:
  """The row of blocks of this thread block, and its list."""

  sample: Array
  head: Array
  row: Array
  first: Array
  count: Array
  place: Ref
  what: Ref

  @classmethod
  def here(cls, rows: int, place: Ref, what: Ref, start: Ref, runs: Ref) -> 'Row':
    sample, head, row = (lax.axis_index(name) for name in ('samples', 'heads', 'rows'))
    line = sample * rows + row
    return cls(sample, head, row, start[line], runs[line], place, what)

  def column(self, entry: Array) -> Array:
    return self.place[self.first + entry] & (1 << PLACE_BITS) - 1

  def full(self, entry: Array) -> Array:
    return (self.what[self.first + entry] & FULL) != 0


def forward(q, q_bits, k, v, k_bits, place, what, start, runs, y, lse, *scratch, scale):
  """In global memory q, k, v, y [B, N, H, D], bits [B, N], lse [B, H, N]; in shared, _s, blocks."""
  q_s, k_s, v_s, q_bits_s, k_bits_s, lse_s, *barriers = scratch
  q_ready, k_ready, v_ready, k_free, v_free, turn = barriers
  groups, _, width = q_s.shape
  block_k = k_s.shape[1]
  here = Row.here(q_bits.shape[1] // (groups * ROWS), place, what, start, runs)
  group = lax.axis_index('group')
  factor = scale * LOG2_E
  # Where the largest logit of a row begins: masked logits lie so far below it that their weight is
  # 0 even before the row has met a key, and no second mask is needed.
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
        # While the tensor cores are at it, the other group may have its exponentials.
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
      # All of this before the other group is let in.
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
  """As forward; also float32 [B, H, 2, N], lse (base 2) and delta, and float32 dq, to be added to.

  A block of the list is `parts` times ROWS queries.
  """
  k_s, v_s, q_s, dy_s, slopes_s, dq_s, stats_s, bits_s, *barriers = scratch
  keys_ready, ready, free, slopes_ready = barriers
  groups, _, width = k_s.shape
  here = Row.here(k_bits.shape[1] // (groups * ROWS), place, what, start, runs)
  group = lax.axis_index('group')
  steps = here.count * parts
  # Beside the two sums of wide heads there is room in the registers for one thing at a time.
  wide = width > WIDE
  piece = PIECE if wide else width
  pieces = [pl.ds(i, min(piece, width - i)) for i in range(0, width, piece)]

  def keys(group):
    return pl.ds((here.row * groups + group) * ROWS, ROWS)

  def queries(step):
    block = here.column(lax.div(step, parts))
    return pl.ds((block * parts + lax.rem(step, parts)) * ROWS, ROWS)

  def visit(dk_sum, dv_sum, step):
    # Taken for a constant, it would have addresses kept in more registers than there are.
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

    # Whoever summed over this part of memory last has done so: since then this group had its turn,
    # for which it waited for all others.
    slopes_s[turn, mine] = slopes
    plgpu.commit_smem()
    plgpu.barrier_arrive(slopes_ready.at[turn])
    plgpu.wgmma(dk_sum, slopes_s.at[turn, mine], q_s.at[slot])

    @pl.when(turn == group)
    def sum_over_keys():
      plgpu.barrier_wait(slopes_ready.at[turn])
      # What was last written from here has left.
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
      # No one else has a use for these values any more.
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
