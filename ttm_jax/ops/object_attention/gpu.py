"""Object attention on Hopper GPUs: Pallas kernels (Mosaic GPU) that visit the listed blocks alone.

Here is how they are launched, what memory they get, and which blocks and cases they take; what a
thread block does is in `gpu_kernels`.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ttm_jax.ops.object_attention.blocked import Kernel
from ttm_jax.ops.object_attention.blocks import BlockMask, fill_up

try:
  from jax.experimental.pallas import mosaic_gpu as plgpu

  from ttm_jax.ops.object_attention import gpu_kernels as kernels
except ImportError:  # Not every build of jaxlib has the compiler.
  kernels = None  # type: ignore[assignment]

Array = jax.Array

# Bytes of shared memory a thread block may have on compute capability 9.0.
SHARED_MEMORY = 227 * 1024
# Largest head dimension.
WIDEST = 160


def block(case) -> tuple[int, int]:
  """(queries, keys) of a block.

  Multiples of ROWS. Queries: as many as forward's groups take, two of them, so that one has the
  tensor cores while the other computes exponentials. Keys: as many as fit into registers and shared
  memory, which `make test-aot-gpu` shows: it compiles for the chip and reports spills. To retune,
  change the numbers, look at that, and on the chip time `benchmarks/object_attention.py`, which
  tries others by --block.
  """
  return 2 * kernels.ROWS, (2 if case.head_dim <= 128 else 1) * kernels.ROWS


def refuses(case) -> str | None:
  """Why a case cannot run here, None if it can."""
  if case.head_dim > WIDEST:
    return f'has no blocks for head dims above {WIDEST}'
  if reason := refuses_machine_or_type(case):
    return reason
  return None if kernels else 'is not compiled by this build of jaxlib'


def refuses_machine_or_type(case) -> str | None:
  """The same for whatever needs Hopper GPUs and 16-bit numbers."""
  if case.platform != 'gpu':
    return f'runs on GPUs, not on {case.platform}'
  if case.dtype not in (jnp.bfloat16, jnp.float16):
    return f'computes bfloat16 and float16, not {jnp.dtype(case.dtype).name}'
  device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
  if not re.search(r'\bG?H\d', device.device_kind):
    return f'needs a Hopper GPU (H100, H200, ...), not {device.device_kind}'
  return None


def make_kernel(interpret: Any = False) -> Kernel:
  """The two passes; `interpret` as in `pl.kernel`.

  TMA reads zeros past the end of an array and writes nothing there: tokens need not fill blocks.
  """
  return Kernel(
    functools.partial(_forward, interpret), functools.partial(_backward, interpret), whole=False
  )


def _forward(interpret, q, k, v, q_bits, k_bits, block_mask: BlockMask, scale: float):
  (block_q, block_k), blocks = block_mask.block, block_mask.by_query
  queries = _tokens_first(q, block_q)
  keys, values = (_tokens_first(x, block_k) for x in (k, v))
  b, _, h, d = queries.shape
  n = q_bits.shape[1]
  groups = block_q // kernels.ROWS
  matrices = functools.partial(_matrices, dtype=q.dtype, piece=128 if d % 64 == 0 else 64)
  y, lse = _launch(
    functools.partial(kernels.forward, scale=scale),
    'object_attention_forward',
    (b, h, n // block_q),
    groups,
    once=(queries, q_bits),
    each_row=(keys, values, k_bits),
    lists=(blocks.place, blocks.what, blocks.start, blocks.runs),
    out=(
      jax.ShapeDtypeStruct(queries.shape, v.dtype),
      jax.ShapeDtypeStruct((b, h, n), jnp.float32),
    ),
    scratch=(
      matrices(groups, kernels.ROWS, d),
      matrices(kernels.STAGES, block_k, d),
      matrices(kernels.STAGES, block_k, d),
      plgpu.SMEM((groups, kernels.ROWS), jnp.int32),
      plgpu.SMEM((kernels.STAGES, block_k), jnp.int32),
      plgpu.SMEM((groups, kernels.ROWS), jnp.float32),
      plgpu.Barrier(num_arrivals=2 * groups),
      plgpu.Barrier(num_barriers=kernels.STAGES, num_arrivals=2),
      plgpu.Barrier(num_barriers=kernels.STAGES),
      plgpu.Barrier(num_barriers=kernels.STAGES, num_arrivals=groups),
      plgpu.Barrier(num_barriers=kernels.STAGES, num_arrivals=groups),
      plgpu.Barrier(num_arrivals=groups),
    ),
    products=2,
    interpret=interpret,
  )
  return _heads_first(y, q), lse[:, :, : q.shape[2]]


# References to global memory live inside of a jit only.
@functools.partial(jax.jit, static_argnames=('interpret', 'scale'))
def _backward(interpret, q, k, v, q_bits, k_bits, block_mask: BlockMask, scale, lse, delta, dy):
  (block_q, block_k), blocks = block_mask.block, block_mask.by_key
  queries, slopes = (_tokens_first(x, block_q) for x in (q, dy))
  keys, values = (_tokens_first(x, block_k) for x in (k, v))
  b, _, h, d = keys.shape
  groups = block_k // kernels.ROWS
  matrices = functools.partial(_matrices, dtype=q.dtype, piece=128 if d % 64 == 0 else 64)
  # Thread blocks add to it: it needs to begin at zero.
  dq = jax.new_ref(jnp.zeros(queries.shape, jnp.float32), memory_space=plgpu.GMEM)
  # Left alone, the compiler sums up delta as it writes it beside the other, by few threads: that
  # was 12 of 664 ms of a train step on an H200.
  delta = jax.lax.optimization_barrier(delta)
  stats = fill_up(jnp.stack([lse * kernels.LOG2_E, delta], 2), block_q, 3)
  dk, dv = _launch(
    functools.partial(kernels.backward, scale=scale, parts=block_q // kernels.ROWS),
    'object_attention_backward',
    (b, h, k_bits.shape[1] // block_k),
    groups,
    once=(keys, values, k_bits),
    each_row=(queries, slopes, stats, q_bits),
    lists=(blocks.place, blocks.what, blocks.start, blocks.runs),
    add_to=dq,
    out=(
      jax.ShapeDtypeStruct(keys.shape, k.dtype),
      jax.ShapeDtypeStruct(keys.shape, v.dtype),
    ),
    scratch=(
      matrices(groups, kernels.ROWS, d),
      matrices(groups, kernels.ROWS, d),
      matrices(kernels.STAGES, kernels.ROWS, d),
      matrices(kernels.STAGES, kernels.ROWS, d),
      matrices(groups, groups, kernels.ROWS, kernels.ROWS),
      _matrices(groups, kernels.ROWS, d, dtype=jnp.float32, piece=128),
      plgpu.SMEM((kernels.STAGES, 2, kernels.ROWS), jnp.float32),
      # Of the queries under way, then of the keys: in one, as every array takes up 1024 bytes.
      plgpu.SMEM((kernels.STAGES + groups, kernels.ROWS), jnp.int32),
      plgpu.Barrier(num_arrivals=3 * groups),
      plgpu.Barrier(num_barriers=kernels.STAGES, num_arrivals=4),
      plgpu.Barrier(num_barriers=kernels.STAGES, num_arrivals=groups),
      plgpu.Barrier(num_barriers=groups, num_arrivals=groups),
    ),
    products=5,
    interpret=interpret,
  )
  dq = (dq[...] * scale).astype(q.dtype)
  return _heads_first(dq, q), _heads_first(dk, k), _heads_first(dv, v)


KERNEL = make_kernel()


def _launch(
  kernel: Callable,
  name: str,
  grid: tuple[int, int, int],
  groups: int,
  *,
  once: Sequence[Array],
  each_row: Sequence[Array],
  lists: Sequence[Array],
  out: Sequence[jax.ShapeDtypeStruct],
  scratch: Sequence[Any],
  products: int,
  interpret: Any,
  add_to: Any = None,
) -> Sequence[Array]:
  """Runs a kernel with `groups` warpgroups that multiply and one that fetches.

  Args:
    grid: samples, heads and rows of blocks.
    once: arrays of which a thread block reads its own part.
    each_row: arrays that it walks along, [B, N, H, D] first, as in `once`.
    lists: those of a `BlockList` that kernels read.
    add_to: a reference to float32 that each row adds to.
    scratch: arrays in shared memory, and barriers.
    products: matrix products that the kernel computes for a block.

  Raises:
    ValueError: if it asks for more registers or shared memory than there are.
  """
  if groups not in kernels.MULTIPLYING:
    raise ValueError(
      f'{name} has registers for {max(kernels.MULTIPLYING) * kernels.ROWS} rows of a block, not for'
      f' {groups * kernels.ROWS}: take smaller blocks'
    )
  size = _shared_memory(scratch)
  if size > SHARED_MEMORY:
    raise ValueError(
      f'{name} needs {size} bytes of shared memory, there are {SHARED_MEMORY}: take smaller blocks'
    )
  b, n, h, d = once[0].shape
  pairs = b * h * n * each_row[0].shape[1]
  refs = [] if add_to is None else [add_to]
  moved = _bytes(*once, *out) + grid[2] * _bytes(*each_row, *refs)

  def body(*refs):
    pl.run_scoped(functools.partial(kernel, *refs), *scratch, collective_axes='group')

  return pl.kernel(
    body,
    out_type=out,
    mesh=plgpu.Mesh(
      grid=grid,
      grid_names=('samples', 'heads', 'rows'),
      num_threads=groups + 1,
      thread_name='group',
    ),
    # Rows are reduced among the lanes of a warp, never through shared memory.
    compiler_params=plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=0),
    # Of all blocks, as on TPUs. JAX's compiler for GPUs (0.10.2) passes it on to no one yet.
    cost_estimate=pl.CostEstimate(
      flops=2 * products * pairs * d, transcendentals=pairs, bytes_accessed=moved
    ),
    name=name,
    interpret=interpret,
  )(*once, *each_row, *lists, *refs)


def _bytes(*arrays: Any) -> int:
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def _shared_memory(scratch: Sequence[Any]) -> int:
  """Bytes; Mosaic aligns each array to 1024."""
  size = 0
  for ref in scratch:
    barriers = getattr(ref, 'num_barriers', None)
    if barriers is not None:
      size += 8 * math.prod(barriers)
    else:
      size += -(-math.prod(ref.shape) * ref.dtype.itemsize // 1024) * 1024
  return size


def _matrices(*shape: int, dtype: jnp.dtype, piece: int) -> Any:
  """Matrices in shared memory, laid out as WGMMA and TMA want them.

  Rows lie in pieces of some bytes, in an order that avoids bank conflicts. Those that are
  multiplied with each other must have the same pieces.
  """
  transforms = (
    plgpu.TilingTransform((8, piece // jnp.dtype(dtype).itemsize)),
    plgpu.SwizzleTransform(piece),
  )
  return plgpu.SMEM(shape, dtype, transforms=transforms)


def _tokens_first(x: Array, block: int) -> Array:
  """[B, H, N, D] -> [B, N, H, D], zeros added for one whole block and for tiles of 8 x 32.

  TMA takes a head's rows from between the others': so what `blocked` has turned is turned back
  here, and where N and D fit nothing is moved at all.
  """
  n, d = x.shape[2:]
  wide = [(0, 0), (0, max(block - n, -n % 8)), (0, 0), (0, -d % 32)]
  return jnp.pad(jnp.swapaxes(x, 1, 2), wide)


def _heads_first(x: Array, like: Array) -> Array:
  return jnp.swapaxes(x, 1, 2)[:, :, : like.shape[2], : like.shape[3]]
