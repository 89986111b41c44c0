"""Object attention on Hopper GPUs: Pallas kernels (Mosaic GPU) that visit only the listed blocks.

This module launches the kernels, allocates their memory, and defines the supported cases and block
sizes. `gpu_kernels` contains the code of a thread block.
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
except ImportError:  # Some builds of jaxlib lack Mosaic GPU.
  kernels = None  # type: ignore[assignment]

Array = jax.Array

# Maximum shared memory of a thread block in bytes, on compute capability 9.0.
SHARED_MEMORY = 227 * 1024
# Largest supported head dimension.
WIDEST = 160


def block(case) -> tuple[int, int]:
  """Return (queries, keys) of a block, both multiples of ROWS.

  A block has 64 queries for each of the two warpgroups of the forward pass: while one uses the
  tensor cores, the other computes exponentials. It has as many keys as fit into registers and
  shared memory. `make test-aot-gpu` checks this: it compiles for the chip and reports spills.

  To retune, change the numbers and run `make test-aot-gpu`. Then, on the chip, time
  `benchmarks/object_attention.py`; its flag --block sets other block sizes.
  """
  return 2 * kernels.ROWS, (2 if case.head_dim <= 128 else 1) * kernels.ROWS


def refuses(case) -> str | None:
  """Return why a case is not supported, or None if it is."""
  if case.head_dim > WIDEST:
    return f'has no blocks for head dims above {WIDEST}'
  if reason := refuses_machine_or_type(case):
    return reason
  return None if kernels else 'is not compiled by this build of jaxlib'


def refuses_machine_or_type(case) -> str | None:
  """Return why the platform, dtype or GPU of a case is not supported, or None if all are.

  It serves every kernel that needs a Hopper GPU and a 16-bit dtype.
  """
  if case.platform != 'gpu':
    return f'runs on GPUs, not on {case.platform}'
  if case.dtype not in (jnp.bfloat16, jnp.float16):
    return f'computes bfloat16 and float16, not {jnp.dtype(case.dtype).name}'
  device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
  if not re.search(r'\bG?H\d', device.device_kind):
    return f'needs a Hopper GPU (H100, H200, ...), not {device.device_kind}'
  return None


def make_kernel(interpret: Any = False) -> Kernel:
  """Return the kernel; `interpret` is passed to `pl.kernel`.

  Tokens need not fill whole blocks: TMA reads zeros beyond the end of an array, and discards writes
  there.
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


# References to global memory exist only inside a jit.
@functools.partial(jax.jit, static_argnames=('interpret', 'scale'))
def _backward(interpret, q, k, v, q_bits, k_bits, block_mask: BlockMask, scale, lse, delta, dy):
  (block_q, block_k), blocks = block_mask.block, block_mask.by_key
  queries, slopes = (_tokens_first(x, block_q) for x in (q, dy))
  keys, values = (_tokens_first(x, block_k) for x in (k, v))
  b, _, h, d = keys.shape
  groups = block_k // kernels.ROWS
  matrices = functools.partial(_matrices, dtype=q.dtype, piece=128 if d % 64 == 0 else 64)
  # Thread blocks accumulate into it, so it must start at zero.
  dq = jax.new_ref(jnp.zeros(queries.shape, jnp.float32), memory_space=plgpu.GMEM)
  # Without the barrier, XLA fuses the reduction that computes delta into the concatenation with
  # lse, and runs it with few threads: 12 of the 664 ms of a train step on an H200.
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
      # Bits of the queries in flight, then of the keys. They share one array, since every array
      # takes at least 1024 bytes.
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
  """Run a kernel with `groups` warpgroups that compute and one that loads.

  Args:
    kernel: the body, of `gpu_kernels`.
    name: name of the kernel, for errors and profiles.
    grid: number of samples, heads and rows of blocks.
    groups: number of computing warpgroups.
    once: arrays of which a thread block reads only its own part; the first is [B, N, H, D].
    each_row: arrays that a thread block reads along its whole row; the first is [B, N, H, D].
    lists: the arrays of a `BlockList` that kernels read.
    out: shapes and dtypes of the results.
    scratch: arrays in shared memory, and barriers.
    products: number of matrix products per block, for the cost estimate.
    interpret: passed to `pl.kernel`.
    add_to: a reference to a float32 array that each row adds to.

  Returns:
    The results, as in `out`.

  Raises:
    ValueError: if the kernel needs more registers or shared memory than the GPU has.
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
    # Row reductions use only the lanes of a warp, never shared memory.
    compiler_params=plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=0),
    # The estimate counts all blocks, as on TPUs. JAX (0.10.2) does not pass it on to XLA for GPUs
    # yet.
    cost_estimate=pl.CostEstimate(
      flops=2 * products * pairs * d, transcendentals=pairs, bytes_accessed=moved
    ),
    name=name,
    interpret=interpret,
  )(*once, *each_row, *lists, *refs)


def _bytes(*arrays: Any) -> int:
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def _shared_memory(scratch: Sequence[Any]) -> int:
  """Return the bytes of shared memory; Mosaic aligns each array to 1024 bytes."""
  size = 0
  for ref in scratch:
    barriers = getattr(ref, 'num_barriers', None)
    if barriers is not None:
      size += 8 * math.prod(barriers)
    else:
      size += -(-math.prod(ref.shape) * ref.dtype.itemsize // 1024) * 1024
  return size


def _matrices(*shape: int, dtype: jnp.dtype, piece: int) -> Any:
  """Return matrices in shared memory with the layout that WGMMA and TMA require.

  Rows are divided into pieces of `piece` bytes, swizzled to avoid bank conflicts. Matrices that are
  multiplied with each other must have the same piece size.
  """
  transforms = (
    plgpu.TilingTransform((8, piece // jnp.dtype(dtype).itemsize)),
    plgpu.SwizzleTransform(piece),
  )
  return plgpu.SMEM(shape, dtype, transforms=transforms)


def _tokens_first(x: Array, block: int) -> Array:
  """Transpose [B, H, N, D] to [B, N, H, D] with zero padding.

  Pads N to at least one block and to a multiple of 8, and D to a multiple of 32. TMA reads the rows
  of one head with a stride over the other heads. This transpose therefore cancels the one in
  `blocked`. If N and D need no padding, no data is moved.
  """
  n, d = x.shape[2:]
  wide = [(0, 0), (0, max(block - n, -n % 8)), (0, 0), (0, -d % 32)]
  return jnp.pad(jnp.swapaxes(x, 1, 2), wide)


def _heads_first(x: Array, like: Array) -> Array:
  """Transpose [B, N, H, D] to [B, H, N, D], cropped to the N and D of `like`."""
  return jnp.swapaxes(x, 1, 2)[:, :, : like.shape[2], : like.shape[3]]
