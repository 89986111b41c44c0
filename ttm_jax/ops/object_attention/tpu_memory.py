"""Memory of a TPU core: how much a kernel needs, and how much there is."""

import math
from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from ttm_jax.ops.object_attention.blocks import BlockList, BlockMask

LANES, SUBLANES = 128, 8
# Bytes of memory of one core, for chips unknown to JAX: those of the smallest chips since v5.
VECTOR_MEMORY = 64 << 20
SCALAR_MEMORY = 1 << 20
# Fraction of each memory reserved for the compiler.
RESERVE = 1 / 8


def check(block_mask: BlockMask, blocks: BlockList, need: int, memory: tuple[int, int]) -> None:
  """Check the block sizes, and the vector and scalar memory that the kernel needs.

  Args:
    block_mask: the block lists.
    blocks: the one that the kernel traverses.
    need: bytes of vector memory that the kernel needs.
    memory: bytes of (vector, scalar) memory.

  Raises:
    ValueError: if block sizes are not multiples of LANES, or the memory does not suffice.
  """
  if any(size % LANES for size in block_mask.block):
    raise ValueError(f'blocks on a TPU are multiples of {LANES}, got {block_mask.block}')
  vector, scalar = memory
  if need > vector:
    raise ValueError(
      f'blocks of {block_mask.block} need {need >> 10} KiB of vector memory, there are'
      f' {vector >> 10} KiB: take smaller blocks'
    )
  listed = 4 * (blocks.place.size + blocks.what.size)
  if listed > scalar:
    raise ValueError(
      f'the list of {blocks.place.size} blocks of {block_mask.block} needs {listed >> 10} KiB of'
      f' scalar memory, there are {scalar >> 10} KiB: give each device fewer samples, or take'
      ' larger blocks'
    )


def needed(operands, results, scratch, chunk: int) -> int:
  """Return the bytes of vector memory: block buffers, scratch, and spilled registers.

  The compiler decides how much it spills. In kernels compiled for v5e, v5p and v6e, it was less
  than three times the scores computed at once. For float32, whose products are split, it was less
  than six times.
  """
  block_q, block_k = (spec.block_shape[-2] for spec, _ in operands[:2])
  copies = 6 if operands[0][1].dtype == jnp.float32 else 3
  need = copies * padded_bytes((block_q, min(chunk, block_k)), jnp.float32) + (1 << 20)
  for spec, x in [*operands, *results]:
    buffers = spec.pipeline_mode.buffer_count if spec.pipeline_mode else 2
    need += buffers * padded_bytes(spec.block_shape, x.dtype)
  return need + sum(padded_bytes(x.shape, x.dtype) for x in scratch)


def available() -> tuple[int, int]:
  """Return the bytes of (vector, scalar) memory of the chip that a kernel may use."""
  vector, scalar = VECTOR_MEMORY, SCALAR_MEMORY
  if pltpu.is_tpu_device():
    chip = pltpu.get_tpu_info()
    vector, scalar = chip.vmem_capacity_bytes, chip.smem_capacity_bytes
  return int(vector * (1 - RESERVE)), int(scalar * (1 - RESERVE))


def padded_bytes(shape: Any, dtype: Any) -> int:
  """Return the bytes of a block in vector memory, with the last two axes padded to whole tiles."""
  *rest, rows, columns = (size or 1 for size in shape)
  packed = 4 // jnp.dtype(dtype).itemsize
  rows = rows if rows == 1 else round_up(rows, SUBLANES * packed)
  return math.prod(rest) * rows * round_up(columns, LANES) * jnp.dtype(dtype).itemsize


def round_up(x: int, multiple: int) -> int:
  """Return the smallest multiple that is at least x."""
  return -(-x // multiple) * multiple
