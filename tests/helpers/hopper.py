"""Run the Hopper kernels of object attention in an interpreter on the CPU; print errors as JSON.

    python -m tests.helpers.hopper maps | all-maps | widths

The interpreter of JAX for Mosaic GPU kernels runs each warpgroup as a thread with real barriers,
fills memory with NaN and detects races. This module adds what it lacks (JAX 0.10.2): matrix
products with an operand in registers or transposed, accumulator stores, layout casts, and copies
that add or are out of bounds. Copies and matrix products complete at once, not asynchronously. So
the tests detect missing waits for other warpgroups, but not for asynchronous copies and products.

Run by `test_object_attention_gpu.py` in a subprocess: the threads wait for each other, so XLA needs
one thread for each of them.
"""

import functools
import json
import os
import sys
import threading
import traceback
from collections import Counter
from typing import Any

os.environ['NPROC'] = '16'

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from jax._src import callback
from jax._src.pallas.mosaic.interpret import thread_map
from jax._src.pallas.mosaic.interpret.utils import GPULoggingInfo, to_range
from jax._src.pallas.mosaic_gpu import core, primitives
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax._src.pallas.mosaic_gpu.interpret.jaxpr_interpret import JaxprInterpreter
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax._src.state.indexing import NDIndexer
from jax._src.state.types import AbstractRef, TransposeTransform

from tests.helpers.attention_reference import reference
from tests.helpers.object_sets import label_maps, maps
from ttm_jax.ops.object_attention import blocked, gpu, gpu_kernels
from ttm_jax.ops.object_attention.api import Case
from ttm_jax.ops.object_attention.blocks import list_blocks

LAST = -(1 << 31)
# Buffer ids that the interpreter assigns to arguments: the keys of the forward kernel, and the
# queries of the backward kernel.
KEYS, QUERIES = 102, 103


class Memory:
  """Access to the interpreter's memory by one warpgroup of a thread block."""

  def __init__(self, device: Any, point: Any, thread: Any):
    self.place = int(device), int(thread)
    self.memory = gpu_callbacks._get_shared_memory()
    self.clock = self.memory.get_global_thread_id(*self.place)
    self.log = GPULoggingInfo(
      device_id=int(device),
      grid_point_coords=tuple(int(x) for x in point),
      thread_id=int(thread),
      source_info=None,
    )

  @staticmethod
  def _find(key: Any, transforms: Any) -> tuple[Any, tuple, list]:
    """Return the buffer, the index range in it, and the transpositions."""
    steps = jax.tree.map(int, gpu_callbacks._remove_noop_transforms(tuple(transforms)))
    part = to_range([step for step in steps if isinstance(step, NDIndexer)])
    turns = [step.permutation for step in steps if isinstance(step, TransposeTransform)]
    return gpu_callbacks.HostAllocationKey.from_array(key), part, turns

  def read(self, key: Any, transforms: Any = ()) -> np.ndarray:
    """Read a part of a buffer, and check for races."""
    key, part, turns = self._find(key, transforms)
    x, _, clock = self.memory.get_buffer_content(key, part, self.clock, logging_info=self.log)
    gpu_callbacks.get_races().check_read(*self.place, clock, key, part)
    for turn in turns:
      x = x.transpose(turn)
    return x

  def write(self, x: np.ndarray, key: Any, transforms: Any = (), add: bool = False) -> None:
    """Write to a buffer, without the part that is out of bounds, and check for races.

    With `add`, add to the contents atomically; this is not checked for races.
    """
    key, part, _ = self._find(key, transforms)
    if part:
      shape = self.memory.mem[key].logical_shape
      ends = [(p, n) for p, n in zip(part, shape, strict=False) if isinstance(p, slice)]
      x = x[tuple(slice(max(n - p.start, 0)) for p, n in ends)]
      part = tuple(
        slice(p.start, min(p.stop, n), p.step) if isinstance(p, slice) else p
        for p, n in zip(part, shape, strict=False)
      )
    if not x.size:
      return
    with _lock:
      if add:
        x = x + self.memory.get_buffer_content(key, part, self.clock, logging_info=self.log)[0]
      *_, clock = self.memory.store_buffer_content(key, part, x, self.clock, logging_info=self.log)
    if not add:
      gpu_callbacks.get_races().check_write(*self.place, clock, key, part)


_lock = threading.Lock()


def _place(interpreter: JaxprInterpreter) -> tuple[Any, Any, Any]:
  return (
    interpreter.device_info.device_id, interpreter.grid_point_coords, interpreter.thread_id
  )  # fmt: skip


def _multiply(token, place, total, x, x_transforms, y, y_transforms, *, in_registers):
  memory = Memory(*place)
  x = np.asarray(x) if in_registers else memory.read(x, x_transforms)
  y = memory.read(y, y_transforms)
  memory.write(memory.read(total) + x.astype(np.float32) @ y.astype(np.float32), total)
  return token


def interpret_product(self, eqn, token, get_values):
  """Interpret a warpgroup matrix product (wgmma)."""
  total, x, y, *leaves = get_values()
  trees = [eqn.params[f'{name}_transforms_tree'] for name in ('acc', 'a', 'b')]
  trees = [jax.tree.structure([]) if tree is None else tree for tree in trees]
  _, x_transforms, y_transforms = jax.tree.unflatten(jax.tree_util.treedef_tuple(trees), leaves)
  in_registers = not isinstance(eqn.invars[1].aval, AbstractRef)
  multiply = functools.partial(_multiply, in_registers=in_registers)
  arguments = token, _place(self), total, x, x_transforms, y, y_transforms
  shape = gpu_callbacks.TOKEN_SHAPE_DTYPE
  return callback.io_callback(multiply, shape, *arguments, ordered=True), []


def _set(place, total, x):
  Memory(*place).write(np.asarray(x), total)
  return np.int32(0)


def interpret_other(
  self, eqn, get_values, otherwise=JaxprInterpreter._interpret_arithmetic_primitive
):
  """Interpret layout casts and accumulator stores; leave other primitives to the interpreter."""
  if eqn.primitive is core.layout_cast_p:
    return get_values()[0]
  if eqn.primitive is primitives.wgmma_accumulator_store_p:
    total, x = get_values()
    shape = gpu_callbacks.TOKEN_SHAPE_DTYPE
    callback.io_callback(_set, shape, _place(self), total, x, ordered=True)
    return x
  return otherwise(self, eqn, get_values)


def copy_out(*, token, reduction_op, src_transforms, dst_transforms, **rest):
  """Copy from shared to global memory, optionally adding to the target."""
  memory = Memory(rest['device_id'], rest['grid_point_coords'], rest['thread_id'])
  x = memory.read(rest['src_allocation_key_as_array'], src_transforms)
  target = rest['dst_allocation_key_as_array']
  memory.write(x, target, dst_transforms, add={None: False, 'add': True}[reduction_op])
  return token


def beyond(found, shape, _, dtype, *rest):
  """Fill the part of a copy that is out of bounds with zeros."""
  whole = np.zeros(shape, dtype)
  if found is not None:
    whole[tuple(map(slice, found.shape))] = found
  return whole


def run(jaxpr, constants, *arguments):
  """Run the program of one thread.

  Compiles each program once. JAX would compile it for every thread of every thread block. If a
  thread fails, exit the process, because the other threads would wait for it forever.
  """
  try:
    with _lock:
      if id(jaxpr) not in _programs:
        program = jax.jit(lambda constants, *a: jax.core.eval_jaxpr(jaxpr, constants, *a))
        # Keep the jaxpr alive, so that no other object gets its id.
        _programs[id(jaxpr)] = program.lower(constants, *arguments).compile(), jaxpr
    _programs[id(jaxpr)][0](constants, *arguments)
  except Exception:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


_programs: dict[int, Any] = {}


def fetch(transfer, token, otherwise=gpu_callbacks.DeviceLocalMemoryTransfer.execute):
  """Copy to shared memory, and record the thread block, the source buffer and its part."""
  key, part, _ = Memory._find(transfer.src_allocation_key_as_array, transfer.src_transforms)
  _fetched[-1].append((tuple(map(int, transfer.grid_point_coords)), key.buffer_id, part))
  return otherwise(transfer, token)


def end(token, otherwise=gpu_callbacks._clean_up_shared_memory):
  """End a kernel: record whether races were found, and start a new list of copies."""
  _races.append(gpu_callbacks.get_races().races_found)
  _fetched.append([])
  return otherwise(token)


# Recorded copies of each kernel (the last entry belongs to the current kernel), and races found.
_fetched: list[list[tuple[tuple, int, tuple]]] = [[]]
_races: list[bool] = []

JaxprInterpreter._interpret_wgmma_ref_p = interpret_product
JaxprInterpreter._interpret_arithmetic_primitive = interpret_other
gpu_callbacks.copy_smem_to_gmem = copy_out
gpu_callbacks._handle_out_of_bounds_read = beyond
gpu_callbacks.DeviceLocalMemoryTransfer.execute = fetch
gpu_callbacks._clean_up_shared_memory = end
thread_map._run_jaxpr = run

KERNEL = gpu.make_kernel(InterpretGPUParams(detect_races=True))


@functools.partial(jax.jit, static_argnums=0)
def passes(block, q, k, v, q_bits, k_bits, dy):
  """Return y, dq, dk, dv of the kernels. Compiled once for all label maps of equal shapes."""
  block_mask = list_blocks(q_bits, k_bits, block, 'gpu')
  y, pull = jax.vjp(
    lambda q, k, v: blocked.attention(KERNEL, q, k, v, q_bits, k_bits, block_mask), q, k, v
  )
  return y, *pull(dy)


@jax.jit
def dense(q, k, v, q_bits, k_bits, dy):
  """Return y, dq, dk, dv of `jax.nn.dot_product_attention`.

  Its output for fully masked queries is undefined, and is replaced by 0.
  """
  mask = (q_bits[:, None, :, None] & k_bits[:, None, None]) != 0
  alive = jnp.swapaxes(mask.any(3, keepdims=True), 1, 2)

  def attend(q, k, v):
    return jnp.where(alive, jax.nn.dot_product_attention(q, k, v, mask=mask), 0)

  y, pull = jax.vjp(attend, q, k, v)
  return y, *pull(dy)


def examine(heads: int, width: int, dtype: str, q_bits: np.ndarray, k_bits: np.ndarray):
  """Check the kernels on one case, and measure their errors.

  Asserts that there are no races, that each block is visited as often as needed, and that fully
  masked queries and keys have zero outputs and gradients.

  Args:
    heads: number of heads.
    width: head dimension.
    dtype: name of the dtype.
    q_bits: object sets of the queries, int32 [B, N].
    k_bits: object sets of the keys, int32 [B, M].

  Returns:
    Errors of y, dq, dk, dv by the kernels and by dense attention, each relative to the largest
    value of the array.
  """
  b, n, m = *q_bits.shape, k_bits.shape[1]
  rng = np.random.default_rng(0)
  shapes = [(b, size, heads, width) for size in (n, m, m, n)]
  q, k, v, dy = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
  block = gpu.block(Case(n, m, width, jnp.dtype(jnp.bfloat16), 'gpu'))
  del _fetched[:-1], _races[:]
  got = jax.block_until_ready(passes(block, q, k, v, q_bits, k_bits, dy))
  assert _races == [False, False], _races
  allowed = (q_bits[:, :, None] & k_bits[:, None]) != 0
  check_visits(block, allowed, heads, *_fetched[:-1])
  y, dq, dk, dv = got = [np.asarray(x, np.float64) for x in got]
  lonely, unread = ~allowed.any(2), ~allowed.any(1)
  assert not (y[lonely].any() or dq[lonely].any() or dk[unread].any() or dv[unread].any())
  assert np.abs(y[~lonely]).max(-1).all()
  wanted = reference(q, k, v, q_bits, k_bits, dy)

  def errors(found):
    return [
      float(np.abs(np.asarray(x, np.float64) - z).max() / max(np.abs(z).max(), 1e-30))
      for x, z in zip(found, wanted, strict=True)
    ]

  return errors(got), errors(dense(q, k, v, q_bits, k_bits, dy))


def check_visits(block, allowed: np.ndarray, heads: int, forward: list, backward: list) -> None:
  """Assert that each block with an allowed pair was fetched once per head, and no other block."""
  b, n, m = allowed.shape
  rows, columns = -(-n // block[0]), -(-m // block[1])
  whole = np.zeros((b, rows * block[0], columns * block[1]), bool)
  whole[:, :n, :m] = allowed
  some = whole.reshape(b, rows, block[0], columns, block[1]).any((2, 4))
  wanted = {(i, h, r, c) for i, r, c in np.argwhere(some).tolist() for h in range(heads)}
  found = Counter(
    (i, h, row, part[1].start // block[1]) for (i, h, row), x, part in forward if x == KEYS
  )
  assert found == dict.fromkeys(wanted, 1), (found, wanted)
  # The backward kernel fetches queries, ROWS at a time.
  found = Counter(
    (i, h, part[1].start // block[0], row) for (i, h, row), x, part in backward if x == QUERIES
  )
  assert found == dict.fromkeys(wanted, block[0] // gpu_kernels.ROWS), (found, wanted)


def of_maps(every: bool) -> dict[str, Any]:
  """Examine object sets of many kinds, or of half of them, in bfloat16 and float32.

  The interpreter computes float32 products exactly, unlike the matrix units of a GPU.
  """
  # More blocks of keys (forward) and of queries (backward) than the kernels prefetch at once.
  n, m = 300, 600
  kinds = [np.stack(x).astype(np.int32) for x in zip(*maps(n, m).values(), strict=True)]
  found = {'float32': [], 'bfloat16': []}

  def look(dtype, q_bits, k_bits):
    found[dtype].append(examine(1, 32, dtype, q_bits, k_bits))

  for i in range(0, len(kinds[0]), 2 if every else 4):
    look('float32', *(x[i : i + 2] for x in kinds))
  look('bfloat16', *(x[:2] for x in kinds))

  @settings(max_examples=4 if every else 1, deadline=None, database=None, derandomize=True)
  @given(label_maps(2, n), label_maps(2, m))
  def look_at_any(q_bits, k_bits):
    look('float32', q_bits, k_bits)

  look_at_any()
  return found


def of_widths() -> dict[str, Any]:
  """Examine several head dimensions, with tokens in random order and sorted by object."""
  rng = np.random.default_rng(0)
  mixed = rng.choice(np.array([0, 1, 2, 3, LAST, LAST | 2]), (2, 150)).astype(np.int32)
  queries = np.stack([runs((1, 130), (3, 70)), runs((LAST, 60), (1, 1), (2, 139))])
  keys = np.stack([runs((1, 200), (2, 100)), runs((LAST, 30), (1, 1), (2, 269))])
  lonely = np.stack([runs((4, 90)), runs((1, 40), (4, 50))])
  prompts = np.stack([runs((1, 40), (2, 30)), runs((0, 40), (1, 30))])
  return {
    '40': examine(2, 40, 'bfloat16', mixed, mixed[::-1, :70]),
    '80': examine(1, 80, 'bfloat16', lonely, prompts),
    '128': examine(1, 128, 'bfloat16', queries, keys),
    '160': examine(1, 160, 'bfloat16', queries[:, 100:], prompts),
  }


def runs(*lengths: tuple[int, int]) -> np.ndarray:
  """Return the object sets of a sample, int32 [N], from (set, repetitions) pairs."""
  sets, counts = zip(*lengths, strict=True)
  return np.repeat(np.array(sets, np.int64), counts).astype(np.int32)


EXAMINED = {
  'maps': functools.partial(of_maps, every=False),
  'all-maps': functools.partial(of_maps, every=True),
  'widths': of_widths,
}

if __name__ == '__main__':
  print(json.dumps(EXAMINED[sys.argv[1]]()))
