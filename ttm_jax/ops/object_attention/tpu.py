"""Object attention on TPUs: Pallas kernels (Mosaic) that visit only the listed blocks.

The grid is (heads, entries of the list). The list is in scalar memory (SMEM); its number of valid
entries is known only at run time. Object sets and row statistics are stored untransposed, [B, N]
and [B, H, N]. A kernel transposes them itself if it needs them along the other axis.

The forward pass computes scores as [queries, keys], the backward pass as [keys, queries]. With this
choice, all matrix products but one stream long operands past short ones. In the backward pass, the
statistics of the queries are then one row, broadcast over the keys.

Logits are scaled in float32. The same factor converts to base 2, since the hardware computes powers
of two. Matrix products of float32 operands are not rounded to bfloat16.

If the gradient of all queries of a head fits into vector memory (VMEM), it stays there. One
traversal by keys then computes all three gradients, with five matrix products per block. Otherwise
there are two traversals, with seven products.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ttm_jax.ops.object_attention.blocked import EMPTY, MASKED, Kernel
from ttm_jax.ops.object_attention.blocks import (
  FIRST,
  FLAG_BITS,
  FULL,
  LAST,
  PLACE_BITS,
  RUN,
  BlockMask,
)
from ttm_jax.ops.object_attention.tpu_memory import (
  LANES,
  available,
  check,
  needed,
  padded_bytes,
  round_up,
)

Array = jax.Array
Ref = Any

LOG2_E, LN_2 = math.log2(math.e), math.log(2)
# Number of arrays in scalar memory, passed before the operands: `place` and `what` of a list.
LISTS = 2
# Initial value of the row maximum. Masked logits are so far below it that their weight is 0 even
# before the row meets an allowed key. The weights therefore need no second mask.
FLOOR = MASKED / 2
# Keys of a block that are computed at once. With fewer, the matrix units wait for the softmax; with
# more, registers run out.
CHUNK = 512
# Larger block sizes by bytes per element, for batches whose blocks of the best size do not fit into
# the list in scalar memory.
LARGER = {
  2: [(1024, 1024), (2048, 1024), (4096, 1024)],
  4: [(1024, 512), (1024, 1024), (2048, 1024)],
}


def block(case) -> tuple[int, int]:
  """Return (queries, keys) of a block.

  A grid step costs about 350 cycles before it computes anything. The first and last step of a row
  cost some more. For comparison, the cycles for 512 x 512 pairs are (on v6e, if no pair is masked):

                  v5e      v6e
      forward     1 250    1 000
      backward    2 760    1 430

  Small blocks skip more pairs. The best sizes for 60 % background and four objects, or for 40 % and
  eight, are:

      4 096 tokens     512 x 512
      8 448 tokens     1024 x 512
      32 768 tokens    1024 x 1024

  Each is less than 10 % faster than its neighbors. Head dimensions up to 128 cost the same; larger
  ones cost proportionally more. If the list of blocks of a batch does not fit into scalar memory,
  the blocks are larger.

  To retune without a TPU: compile with LIBTPU_INIT_ARGS='--xla_jf_dump_to=DIR
  --xla_jf_dump_llo_text=true'. Count the bundles of each region of a kernel in
  DIR/*packed-bundles-post-ra.txt; a bundle is one cycle. To retune with a TPU: time both passes
  with the block sizes below and their neighbors, on label maps of your data.

  Args:
    case: the `api.Case`; it gives N, M, the dtype and the samples per device.
  """
  queries, keys = case.queries, case.keys
  if case.dtype == jnp.float32:
    # A float32 product takes six passes of the matrix units, so longer steps gain nothing.
    sizes = 512, 512
  else:
    sizes = 512 if queries <= 6144 else 1024, 512 if keys <= 16384 else 1024
  if keys <= 2048:
    # Object prompts: a block of 256 keys covers the prompt tokens of few objects.
    sizes = sizes[0], 256
  for queries, keys in (sizes, *LARGER[jnp.dtype(case.dtype).itemsize]):
    sizes = min(queries, round_up(case.queries, LANES)), min(keys, round_up(case.keys, LANES))
    if _listed(case, sizes) <= available()[1]:
      break
  return sizes


def _listed(case, sizes: tuple[int, int]) -> int:
  """Return the bytes of scalar memory that the block list of a batch takes."""
  blocks = pl.cdiv(case.queries, sizes[0]) * pl.cdiv(case.keys, sizes[1])
  return case.samples * blocks * LISTS * 4


def refuses(case) -> str | None:
  """Return why a case is not supported, or None if it is."""
  if case.platform != 'tpu':
    return f'runs on TPUs, not on {case.platform}'
  if case.dtype not in (jnp.bfloat16, jnp.float32):
    return f'computes bfloat16 and float32, not {jnp.dtype(case.dtype).name}'
  if _listed(case, block(case)) > available()[1]:
    return f'has no room to list the blocks of {case.samples} samples on one device'
  return None


@dataclasses.dataclass(frozen=True)
class _Options:
  """Settings of the kernels, see `make_kernel`."""

  interpret: Any
  share: float
  chunk: int
  memory: tuple[int, int] | None


def make_kernel(
  *,
  interpret: Any = False,
  share: float = 1.0,
  chunk: int = CHUNK,
  memory: tuple[int, int] | None = None,
) -> Kernel:
  """Return the kernel with other settings than the default ones.

  Args:
    interpret: a `pltpu.InterpretParams` to simulate a TPU on any platform; False compiles.
    share: the fraction of all blocks that cost estimates count, 0 to 1. The number of visited
      blocks depends on the label maps, which the compiler does not know. The default counts all
      blocks. That is exact for dense attention and too high for masks, so utilization computed from
      it is an upper bound.
    chunk: keys that are computed at once.
    memory: bytes of (vector, scalar) memory; None for those of the chip.
  """
  options = _Options(interpret, share, chunk, memory)
  return Kernel(
    functools.partial(_forward, options=options), functools.partial(_backward, options=options)
  )


def _forward(q, k, v, q_bits, k_bits, block_mask, scale, *, options) -> tuple[Array, Array]:
  b, heads, n, d = q.shape
  at = _places(block_mask.block, d, by_query=True)
  block_q, _ = block_mask.block
  y, lse = _run(
    functools.partial(_forward_kernel, scale=scale),
    block_mask,
    at,
    [
      (at.queries, q),
      (at.keys, k),
      (at.keys, v),
      (at.q_bits, q_bits[:, None]),
      (at.k_bits, k_bits[:, None]),
    ],
    [
      (at.queries, jax.ShapeDtypeStruct(q.shape, v.dtype)),
      (at.statistics, jax.ShapeDtypeStruct((b, heads, 1, n), jnp.float32)),
    ],
    [
      jax.ShapeDtypeStruct((block_q, LANES), jnp.int32),
      jax.ShapeDtypeStruct((block_q, LANES), jnp.float32),
      jax.ShapeDtypeStruct((block_q, LANES), jnp.float32),
      jax.ShapeDtypeStruct((block_q, d), jnp.float32),
    ],
    products=2,
    name='object_attention_forward',
    options=options,
  )
  return y, lse[:, :, 0]


def _backward(
  q, k, v, q_bits, k_bits, block_mask, scale, lse, delta, dy, *, options
) -> tuple[Array, Array, Array]:
  n, d = q.shape[2:]
  block_q, block_k = block_mask.block
  like_q, like_k, like_v = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v))

  def operands(at):
    return [
      (at.queries, q),
      (at.keys, k),
      (at.keys, v),
      (at.q_bits, q_bits[:, None]),
      (at.k_bits, k_bits[:, None]),
      (at.statistics, lse[:, :, None]),
      (at.statistics, delta[:, :, None]),
      (at.queries, dy),
    ]

  at = _places(block_mask.block, d, by_query=False)
  results = [(at.keys, like_k), (at.keys, like_v)]
  scratch = [jax.ShapeDtypeStruct((block_k, d), jnp.float32)] * 2
  kernel = functools.partial(_by_key_kernel, rows=k.shape[2] // block_k, scale=scale)
  by_key = functools.partial(_run, kernel, block_mask, at, operands(at), options=options)
  sums = jax.ShapeDtypeStruct((n // block_q, d, block_q), jnp.float32)
  room = (options.memory or available())[0] - needed(
    operands(at), results, [*scratch, sums], options.chunk
  )
  # With two buffers, the result of one head is written while the next head is computed. With one
  # buffer, the next head waits.
  buffers = min(2, room // padded_bytes((n, d), q.dtype))
  if buffers > 0:
    head = pl.BlockSpec(
      (None, None, n, d),
      lambda h, e, place, what: (what[e] >> FLAG_BITS, h, 0, 0),
      pipeline_mode=pl.Buffered(buffers),
    )
    dk, dv, dq = by_key(
      [*results, (head, like_q)],
      [*scratch, sums],
      # Outputs may overwrite their inputs. A block of keys is read only in its row, and its
      # gradient is written at the end of that row. The queries of a head are read until their
      # gradient is written.
      overwrite={1: 0, 2: 1, 0: 2},
      products=5,
      name='object_attention_backward',
    )
  else:
    dk, dv = by_key(results, scratch, products=4, name='object_attention_dkv')
    at = _places(block_mask.block, d, by_query=True)
    (dq,) = _run(
      functools.partial(_dq_kernel, scale=scale),
      block_mask,
      at,
      operands(at),
      [(at.queries, like_q)],
      [jax.ShapeDtypeStruct(sums.shape[1:], jnp.float32)],
      products=3,
      name='object_attention_dq',
      options=options,
    )
  return dq, dk, dv


KERNEL = make_kernel()


def _forward_kernel(
  place, what, q, k, v, q_bits, k_bits, y, lse, bits, top, total, out, *, scale, chunk
):
  flags = what[pl.program_id(1)]

  @pl.when(flags & FIRST != 0)
  def _():
    bits[...] = jnp.broadcast_to(q_bits[...], bits.shape[::-1]).T
    top[...] = jnp.full_like(top, FLOOR)
    total[...] = jnp.zeros_like(total)
    out[...] = jnp.zeros_like(out)

  def visit(keys, masked):
    scores = _dot(q[...], k[keys, :], (1, 1)) * (scale * LOG2_E)
    if masked:
      scores = jnp.where((_widen(bits[...], chunk) & k_bits[:, keys]) != 0, scores, MASKED)
    old_top = top[...]
    new_top = jnp.maximum(old_top, scores.max(1, keepdims=True))
    weights = jnp.exp2(scores - _widen(new_top, chunk))
    decay = jnp.exp2(old_top - new_top)
    # Keep one sum per lane; they are reduced when the row ends.
    parts = [weights[:, i : i + LANES] for i in range(0, chunk, LANES)]
    total[...] = total[...] * decay + sum(parts)
    part = _dot(weights.astype(v.dtype), v[keys, :], (1, 0))
    out[...] = out[...] * _widen(decay, out.shape[1]) + part
    top[...] = new_top

  _visit(flags, k.shape[0], chunk, visit)

  @pl.when(flags & LAST != 0)
  def _():
    sums = total[...].sum(1, keepdims=True)
    dead = sums == 0
    sums = jnp.where(dead, 1.0, sums)
    y[...] = (out[...] * (1 / sums)).astype(y.dtype)
    lse[...] = jnp.where(dead, EMPTY, (top[...] + jnp.log2(sums)) * LN_2).T[:1]


def _dq_kernel(place, what, q, k, v, q_bits, k_bits, lse, delta, dy, dq, dq_sum, *, scale, chunk):
  flags = what[pl.program_id(1)]

  @pl.when(flags & FIRST != 0)
  def _():
    dq_sum[...] = jnp.zeros_like(dq_sum)

  def visit(keys, masked):
    _, slopes = _slopes(q, k, v, q_bits, k_bits, lse, delta, dy, keys, masked, scale)
    dq_sum[...] += _dot(k[keys, :], slopes.astype(k.dtype), (0, 0))

  _visit(flags, k.shape[0], chunk, visit)

  @pl.when(flags & LAST != 0)
  def _():
    dq[...] = (dq_sum[...] * scale).T.astype(dq.dtype)


def _by_key_kernel(place, what, q, k, v, q_bits, k_bits, lse, delta, dy, *out, rows, scale, chunk):
  """Compute the gradients of keys and values, and, if it fits into memory, that of the queries.

  The sums of the queries' gradient are [rows of queries, D, block].
  """
  (dk, dv, *dq), (dk_sum, dv_sum, *dq_sum) = out[: len(out) // 2], out[len(out) // 2 :]
  entry = pl.program_id(1)
  flags = what[entry]
  row, column = place[entry] >> PLACE_BITS, place[entry] & (1 << PLACE_BITS) - 1

  @pl.when(flags & FIRST != 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  def visit(keys, masked):
    weights, slopes = _slopes(q, k, v, q_bits, k_bits, lse, delta, dy, keys, masked, scale)
    slopes = slopes.astype(q.dtype)
    dv_sum[keys, :] += _dot(weights.astype(dy.dtype), dy[...], (1, 0))
    dk_sum[keys, :] += _dot(slopes, q[...], (1, 0))
    for total in dq_sum:
      total[column] += _dot(k[keys, :], slopes, (0, 0))

  if dq:
    pl.when((flags & FIRST != 0) & (row == 0))(lambda: _clear(dq_sum[0]))

  _visit(flags, k.shape[0], chunk, visit)

  @pl.when(flags & LAST != 0)
  def _():
    dk[...] = (dk_sum[...] * scale).astype(dk.dtype)
    dv[...] = dv_sum[...].astype(dv.dtype)

  if dq:
    pl.when((flags & LAST != 0) & (row == rows - 1))(lambda: _turn(dq_sum[0], scale, dq[0]))


def _clear(total: Ref) -> None:
  def clear(i, _):
    total[i] = jnp.zeros(total.shape[1:], total.dtype)

  jax.lax.fori_loop(0, total.shape[0], clear, None)


def _turn(total: Ref, scale: float, result: Ref) -> None:
  """Write [rows, D, block], scaled and transposed, as [rows block, D]."""
  rows, _, size = total.shape

  def turn(i, _):
    tokens = pl.ds(pl.multiple_of(i * size, size), size)
    result[tokens, :] = (total[i] * scale).T.astype(result.dtype)

  jax.lax.fori_loop(0, rows, turn, None)


def _slopes(
  q, k, v, q_bits, k_bits, lse, delta, dy, keys, masked: bool, scale: float
) -> tuple[Array, Array]:
  """Return the weights of some keys of a block and the gradients of their scaled logits.

  Both are [keys, queries].
  """
  scores = _dot(k[keys, :], q[...], (1, 1)) * (scale * LOG2_E)
  weights = jnp.exp2(scores - lse[...] * LOG2_E)
  if masked:
    columns = jnp.broadcast_to(k_bits[:, keys], (q_bits.shape[1], keys.size)).T
    weights = jnp.where((columns & q_bits[...]) != 0, weights, 0.0)
  return weights, weights * (_dot(v[keys, :], dy[...], (1, 1)) - delta[...])


def _visit(flags: Array, keys: int, chunk: int, visit: Callable[[Any, bool], None]) -> None:
  """Call visit(keys, masked) for each chunk of keys, if the block has allowed pairs."""

  def every(masked: bool) -> None:
    for start in range(0, keys, chunk):
      visit(pl.ds(start, chunk), masked)

  pl.when(flags & (RUN | FULL) == RUN | FULL)(lambda: every(masked=False))
  pl.when(flags & (RUN | FULL) == RUN)(lambda: every(masked=True))


def _dot(x: Array, y: Array, axes: tuple[int, int]) -> Array:
  """Contract one axis of each operand, with float32 accumulation."""
  exact = x.dtype == jnp.float32
  return jax.lax.dot_general(
    x,
    y,
    (((axes[0],), (axes[1],)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT,
    preferred_element_type=jnp.float32,
  )


def _widen(x: Array, width: int) -> Array:
  """Widen [rows, LANES], constant over the lanes, to [rows, width]."""
  return jnp.tile(x, (1, pl.cdiv(width, LANES)))[:, :width]


@dataclasses.dataclass(frozen=True)
class _Places:
  """Block specs of each operand, indexed by head and entry of a list.

  Attributes:
    by_query: whether the rows of the list are blocks of queries rather than of keys.
    queries, keys: blocks [block, D] of arrays [B, H, N, D].
    statistics: blocks [1, block] of arrays [B, H, 1, N].
    q_bits, k_bits: blocks [1, block] of arrays [B, 1, N].
  """

  by_query: bool
  queries: pl.BlockSpec
  keys: pl.BlockSpec
  statistics: pl.BlockSpec
  q_bits: pl.BlockSpec
  k_bits: pl.BlockSpec

  def along_rows(self) -> list[pl.BlockSpec]:
    """Return the specs whose block changes with every entry of a row."""
    if self.by_query:
      return [self.keys, self.k_bits]
    return [self.queries, self.statistics, self.q_bits]


def _places(sizes: tuple[int, int], d: int, by_query: bool) -> _Places:
  def row(place, e):
    return place[e] >> PLACE_BITS

  def column(place, e):
    return place[e] & (1 << PLACE_BITS) - 1

  query, key = (row, column) if by_query else (column, row)
  block_q, block_k = sizes
  return _Places(
    by_query,
    queries=pl.BlockSpec(
      (None, None, block_q, d),
      lambda h, e, place, what: (what[e] >> FLAG_BITS, h, query(place, e), 0),
    ),
    keys=pl.BlockSpec(
      (None, None, block_k, d),
      lambda h, e, place, what: (what[e] >> FLAG_BITS, h, key(place, e), 0),
    ),
    statistics=pl.BlockSpec(
      (None, None, 1, block_q),
      lambda h, e, place, what: (what[e] >> FLAG_BITS, h, 0, query(place, e)),
    ),
    q_bits=pl.BlockSpec(
      (None, 1, block_q), lambda h, e, place, what: (what[e] >> FLAG_BITS, 0, query(place, e))
    ),
    k_bits=pl.BlockSpec(
      (None, 1, block_k), lambda h, e, place, what: (what[e] >> FLAG_BITS, 0, key(place, e))
    ),
  )


def _run(
  kernel: Callable,
  block_mask: BlockMask,
  at: _Places,
  operands: Sequence[tuple[pl.BlockSpec, Array]],
  results: Sequence[tuple[pl.BlockSpec, jax.ShapeDtypeStruct]],
  scratch: Sequence[jax.ShapeDtypeStruct],
  *,
  products: int,
  name: str,
  options: _Options,
  overwrite: Mapping[int, int] | None = None,
) -> tuple[Array, ...]:
  """Run a kernel on every entry of a block list.

  The kernel receives the two arrays of the list, the operands, the results and the scratch arrays.

  Args:
    kernel: the kernel body.
    block_mask: the block lists.
    at: block specs; `at.by_query` selects the list.
    operands: block spec and array of each input; queries first, then keys.
    results: block spec, shape and dtype of each output.
    scratch: shape and dtype of each scratch array in vector memory.
    products: number of matrix products per block, for the cost estimate.
    name: name of the kernel, for profiles.
    options: settings of the kernels.
    overwrite: maps the index of an operand to that of the result that may reuse its memory.

  Returns:
    The results.

  Raises:
    ValueError: if block sizes are not multiples of LANES, or the memory does not suffice.
  """
  blocks = block_mask.by_query if at.by_query else block_mask.by_key
  chunk = options.chunk if block_mask.block[1] % options.chunk == 0 else block_mask.block[1]
  need = needed(operands, results, scratch, options.chunk)
  check(block_mask, blocks, need, options.memory or available())
  b, heads, n, d = operands[0][1].shape
  pairs = int(options.share * b * heads * n * operands[1][1].shape[2])
  visits = pairs // math.prod(block_mask.block)
  moved = sum(padded_bytes(x.shape, x.dtype) for _, x in results)
  for spec, x in operands:
    each_entry = spec in at.along_rows()
    moved += (
      visits * padded_bytes(spec.block_shape, x.dtype)
      if each_entry
      else padded_bytes(x.shape, x.dtype)
    )
  call = pl.pallas_call(
    functools.partial(kernel, chunk=chunk),
    name=name,
    out_shape=[shape for _, shape in results],
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=LISTS,
      grid=(heads, blocks.count[0]),
      in_specs=[spec for spec, _ in operands],
      out_specs=[spec for spec, _ in results],
      scratch_shapes=[pltpu.VMEM(x.shape, x.dtype) for x in scratch],
    ),
    compiler_params=pltpu.CompilerParams(
      # On chips with two cores, the heads are divided between the cores.
      dimension_semantics=('parallel', 'arbitrary'),
      vmem_limit_bytes=need,
      # The lists contain only valid blocks. Bounds checks of each copy cost 100 cycles per step.
      disable_bounds_checks=True,
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * products * pairs * d, transcendentals=pairs, bytes_accessed=moved
    ),
    input_output_aliases={LISTS + i: j for i, j in (overwrite or {}).items()},
    interpret=options.interpret,
  )
  return tuple(call(blocks.place, blocks.what, *(x for _, x in operands)))
