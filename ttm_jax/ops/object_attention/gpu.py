"""Object attention on Hopper GPUs by kernels (Pallas, Mosaic GPU) that visit the listed blocks alone.

Here is how they are launched, what memory they get, and which blocks and cases they take; what a
thread block does is in `gpu_kernels`.
"""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ttm_jax.ops.object_attention import gpu_kernels as kernels
from ttm_jax.ops.object_attention.blocked import Kernel
from ttm_jax.ops.object_attention.blocks import Tables, fill_up
from ttm_jax.ops.object_attention.gpu_kernels import LOG2_E, ROWS, STAGES

Array = jax.Array

# Bytes of shared memory a thread block may have on compute capability 9.0.
SHARED_MEMORY = 227 * 1024
# Largest head dimension.
WIDEST = 160


def _shared_memory(scratch) -> int:
  """Bytes; Mosaic aligns each array to 1024."""
  size = 0
  for ref in scratch:
    if isinstance(ref, plgpu.Barrier):
      size += 8 * math.prod(ref.num_barriers)
    else:
      size += -(-math.prod(ref.shape) * ref.dtype.itemsize // 1024) * 1024
  return size


def _launch(kernel, name, grid, groups, out, scratch, interpret, *arrays):
  """Runs a kernel with `groups` warpgroups that multiply and one that fetches.

  Raises:
    ValueError: if the shared memory it asks for is more than there is.
  """
  size = _shared_memory(scratch)
  if size > SHARED_MEMORY:
    raise ValueError(
      f'{name} needs {size} bytes of shared memory, there are {SHARED_MEMORY}: take smaller blocks'
    )

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
    name=name,
    interpret=interpret,
  )(*arrays)


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
  """[B, H, N, D] -> [B, N, H, D], zeros added to D for pieces of 32 numbers.

  TMA takes a head's rows from between the others', so that what `blocked` has turned is turned back
  here, and nothing is moved at all. Nor need tokens fill their last block, if there is a whole one:
  TMA reads zeros past the end, and writes nothing there.
  """
  n, d = x.shape[2:]
  wide = [(0, 0), (0, max(block - n, 0)), (0, 0), (0, -d % 32)]
  return jnp.pad(jnp.swapaxes(x, 1, 2), wide)


def _heads_first(x: Array, like: Array) -> Array:
  return jnp.swapaxes(x, 1, 2)[:, :, : like.shape[2], : like.shape[3]]


def _forward(interpret, q, k, v, q_bits, k_bits, tables: Tables, scale: float):
  (block_q, block_k), blocks = tables.block, tables.by_query
  queries = _tokens_first(q, block_q)
  keys, values = (_tokens_first(x, block_k) for x in (k, v))
  b, _, h, d = queries.shape
  n = q_bits.shape[1]
  groups = block_q // ROWS
  matrices = functools.partial(_matrices, dtype=q.dtype, piece=128 if d % 64 == 0 else 64)
  y, lse = _launch(
    functools.partial(kernels.forward, scale=scale),
    'object_attention_forward',
    (b, h, n // block_q),
    groups,
    (jax.ShapeDtypeStruct(queries.shape, v.dtype), jax.ShapeDtypeStruct((b, h, n), jnp.float32)),
    (
      matrices(groups, ROWS, d),
      matrices(STAGES, block_k, d),
      matrices(STAGES, block_k, d),
      plgpu.SMEM((groups, ROWS), jnp.int32),
      plgpu.SMEM((STAGES, block_k), jnp.int32),
      plgpu.SMEM((groups, ROWS), jnp.float32),
      plgpu.Barrier(num_arrivals=2 * groups),
      plgpu.Barrier(num_barriers=STAGES, num_arrivals=2),
      plgpu.Barrier(num_barriers=STAGES),
      plgpu.Barrier(num_barriers=STAGES, num_arrivals=groups),
      plgpu.Barrier(num_barriers=STAGES, num_arrivals=groups),
      plgpu.Barrier(num_arrivals=groups),
    ),
    interpret,
    *(queries, keys, values, q_bits, k_bits),
    *(blocks.place, blocks.what, blocks.start, blocks.runs),
  )
  return _heads_first(y, q), lse[:, :, : q.shape[2]]


# References to global memory live inside of a jit only.
@functools.partial(jax.jit, static_argnames=('interpret', 'scale'))
def _backward(interpret, q, k, v, q_bits, k_bits, tables: Tables, scale, lse, delta, dy):
  (block_q, block_k), blocks = tables.block, tables.by_key
  queries, slopes = (_tokens_first(x, block_q) for x in (q, dy))
  keys, values = (_tokens_first(x, block_k) for x in (k, v))
  b, _, h, d = keys.shape
  groups = block_k // ROWS
  matrices = functools.partial(_matrices, dtype=q.dtype, piece=128 if d % 64 == 0 else 64)
  # Thread blocks add to it: it needs to begin at zero.
  dq = jax.new_ref(jnp.zeros(queries.shape, jnp.float32), memory_space=plgpu.GMEM)
  stats = fill_up(jnp.stack([lse * LOG2_E, delta], 2), block_q, 3)
  dk, dv = _launch(
    functools.partial(kernels.backward, scale=scale, parts=block_q // ROWS),
    'object_attention_backward',
    (b, h, k_bits.shape[1] // block_k),
    groups,
    (jax.ShapeDtypeStruct(keys.shape, k.dtype), jax.ShapeDtypeStruct(keys.shape, v.dtype)),
    (
      matrices(groups, ROWS, d),
      matrices(groups, ROWS, d),
      matrices(STAGES, ROWS, d),
      matrices(STAGES, ROWS, d),
      matrices(groups, groups, ROWS, ROWS),
      _matrices(groups, ROWS, d, dtype=jnp.float32, piece=128),
      plgpu.SMEM((STAGES, 2, ROWS), jnp.float32),
      # Of the queries under way, then of the keys: in one, as every array takes up 1024 bytes.
      plgpu.SMEM((STAGES + groups, ROWS), jnp.int32),
      plgpu.Barrier(num_arrivals=3 * groups),
      plgpu.Barrier(num_barriers=STAGES, num_arrivals=4),
      plgpu.Barrier(num_barriers=STAGES, num_arrivals=groups),
      plgpu.Barrier(num_barriers=groups, num_arrivals=groups),
    ),
    interpret,
    *(queries, keys, values, slopes, stats, q_bits, k_bits),
    *(blocks.place, blocks.what, blocks.start, blocks.runs),
    dq,
  )
  dq = (dq[...] * scale).astype(q.dtype)
  return _heads_first(dq, q), _heads_first(dk, k), _heads_first(dv, v)


def make_kernel(interpret: Any = False) -> Kernel:
  """The two passes; `interpret` as in `pl.kernel`."""
  return Kernel(functools.partial(_forward, interpret), functools.partial(_backward, interpret))


KERNEL = make_kernel()


def refuses(case) -> str | None:
  """Why a case cannot run here, None if it can."""
  if case.head_dim > WIDEST:
    return f'has no blocks for head dims above {WIDEST}'
  return refuses_machine_or_type(case)


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


def block(case) -> tuple[int, int]:
  """(queries, keys) of a block.

  Multiples of ROWS. Queries: as many as forward's groups take, two of them, so that one has the
  tensor cores while the other computes exponentials. Keys: as many as fit into registers and shared
  memory, which `make test-aot-gpu` shows: it compiles for the chip and reports spills. To retune,
  change the numbers, look at that, and time `benchmarks/object_attention.py` on the chip.
  """
  return 2 * ROWS, (2 if case.head_dim <= 128 else 1) * ROWS
