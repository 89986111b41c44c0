"""Object attention's kernels for Hopper GPUs, run on the CPU; prints what it found as JSON.

JAX's interpreter of Mosaic GPU kernels runs every warpgroup as a thread and every barrier as a
barrier, fills memory with NaN and looks for races. What it lacks (JAX 0.10.2) is added here: matrix
products with an operand in registers or transposed, accumulators that are written, layouts that are
cast, copies that add or go past the end. Copies and products are done when they are asked for, not
some time later: to wait too little for them goes unnoticed, for another warpgroup it does not.

Run by `test_object_attention_gpu.py` in a process of its own: the threads wait for each other, and
XLA must have one for each of them.
"""

import functools
import json
import os
import sys
import threading
import traceback
from typing import Any

os.environ['NPROC'] = '16'

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import callback
from jax._src.pallas.mosaic.interpret import thread_map
from jax._src.pallas.mosaic.interpret.utils import GPULoggingInfo, to_range
from jax._src.pallas.mosaic_gpu import core, primitives
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax._src.pallas.mosaic_gpu.interpret.jaxpr_interpret import JaxprInterpreter
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax._src.state.indexing import NDIndexer
from jax._src.state.types import AbstractRef, TransposeTransform

from tests.test_object_attention import reference
from ttm_jax.ops.object_attention import blocked, gpu
from ttm_jax.ops.object_attention.api import Case
from ttm_jax.ops.object_attention.blocks import fill_up, list_blocks

LAST = -(1 << 31)


class Memory:
  """The memory of a thread block, as one of its warpgroups sees it."""

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
    """Which buffer, which part of it, and what is turned."""
    steps = jax.tree.map(int, gpu_callbacks._remove_noop_transforms(tuple(transforms)))
    part = to_range([step for step in steps if isinstance(step, NDIndexer)])
    turns = [step.permutation for step in steps if isinstance(step, TransposeTransform)]
    return gpu_callbacks.HostAllocationKey.from_array(key), part, turns

  def read(self, key: Any, transforms: Any = ()) -> np.ndarray:
    key, part, turns = self._find(key, transforms)
    x, _, clock = self.memory.get_buffer_content(key, part, self.clock, logging_info=self.log)
    gpu_callbacks.get_races().check_read(*self.place, clock, key, part)
    for turn in turns:
      x = x.transpose(turn)
    return x

  def write(self, x: np.ndarray, key: Any, transforms: Any = (), add: bool = False) -> None:
    """What lies past the end is left out; who adds does so at once, without a race."""
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
  if eqn.primitive is core.layout_cast_p:
    return get_values()[0]
  if eqn.primitive is primitives.wgmma_accumulator_store_p:
    total, x = get_values()
    shape = gpu_callbacks.TOKEN_SHAPE_DTYPE
    callback.io_callback(_set, shape, _place(self), total, x, ordered=True)
    return x
  return otherwise(self, eqn, get_values)


def copy_out(*, token, reduction_op, src_transforms, dst_transforms, **rest):
  memory = Memory(rest['device_id'], rest['grid_point_coords'], rest['thread_id'])
  x = memory.read(rest['src_allocation_key_as_array'], src_transforms)
  target = rest['dst_allocation_key_as_array']
  memory.write(x, target, dst_transforms, add={None: False, 'add': True}[reduction_op])
  return token


def beyond(found, shape, _, dtype, *rest):
  """What a copy reads past the end."""
  whole = np.zeros(shape, dtype)
  if found is not None:
    whole[tuple(map(slice, found.shape))] = found
  return whole


def run(jaxpr, constants, *arguments):
  """What a thread does; JAX would compile it anew for every thread of every thread block.

  If one fails, the process ends: others would wait for it forever.
  """
  try:
    with _lock:
      if id(jaxpr) not in _programs:
        program = jax.jit(lambda constants, *a: jax.core.eval_jaxpr(jaxpr, constants, *a))
        # The jaxpr is kept, so that no other gets its id.
        _programs[id(jaxpr)] = program.lower(constants, *arguments).compile(), jaxpr
    _programs[id(jaxpr)][0](constants, *arguments)
  except Exception:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


_programs: dict[int, Any] = {}

JaxprInterpreter._interpret_wgmma_ref_p = interpret_product
JaxprInterpreter._interpret_arithmetic_primitive = interpret_other
gpu_callbacks.copy_smem_to_gmem = copy_out
gpu_callbacks._handle_out_of_bounds_read = beyond
thread_map._run_jaxpr = run


def runs(*lengths: tuple[int, int]) -> np.ndarray:
  """Object sets of a sample: (set, how often) after one another; int32 [N]."""
  sets, counts = zip(*lengths, strict=True)
  return np.repeat(np.array(sets, np.int64), counts).astype(np.int32)


def cases() -> dict[str, tuple[int, int, np.ndarray, np.ndarray]]:
  """Heads, head dimension, object sets of the queries, of the keys; two samples each."""
  rng = np.random.default_rng(0)
  mixed = rng.choice(np.array([0, 1, 2, 3, LAST, LAST | 2]), (2, 150)).astype(np.int32)
  queries = np.stack([runs((1, 130), (3, 70)), runs((LAST, 60), (1, 1), (2, 139))])
  keys = np.stack([runs((1, 200), (2, 100)), runs((LAST, 30), (1, 1), (2, 269))])
  lonely = np.stack([runs((4, 90)), runs((1, 40), (4, 50))])
  prompts = np.stack([runs((1, 40), (2, 30)), runs((0, 40), (1, 30))])
  return {
    'sets of all kinds in any order': (2, 40, mixed, mixed[::-1, :70]),
    'objects one after the other': (1, 128, queries, keys),
    'a sample whose queries meet nothing': (1, 80, lonely, prompts),
    'keys in blocks of their own size': (1, 160, queries[:, 100:], prompts),
  }


def examine(heads: int, width: int, q_bits: np.ndarray, k_bits: np.ndarray) -> dict[str, Any]:
  """Errors of the kernels and of dense attention in bfloat16, and what ought to be zero."""
  rng = np.random.default_rng(0)
  n, m = q_bits.shape[1], k_bits.shape[1]
  shapes = [(2, size, heads, width) for size in (n, m, m, n)]
  q, k, v, dy = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes)
  block = gpu.block(Case(n, m, width, jnp.dtype(jnp.bfloat16), 'gpu'))
  kernel = gpu.make_kernel(InterpretGPUParams(detect_races=True))

  races = []

  def with_gradients(attend, dy):
    y, pull = jax.vjp(attend, q, k, v)
    y = np.asarray(y, np.float64)
    races.append(gpu_callbacks.get_races().races_found)
    gradients = [np.asarray(x, np.float64) for x in pull(dy)]
    races.append(gpu_callbacks.get_races().races_found)
    return [y, *gradients]

  tables = list_blocks(jnp.asarray(q_bits), jnp.asarray(k_bits), block, 'gpu')
  bits = [fill_up(jnp.asarray(x), size, 1) for x, size in zip((q_bits, k_bits), block, strict=True)]

  def attend(q, k, v):
    """As `blocked.attention`, but tokens are left without the zeros that fill up blocks."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(blocked._attend(kernel, width**-0.5, q, k, v, *bits, tables), 1, 2)

  got = with_gradients(attend, dy)
  allowed = (q_bits[:, :, None] & k_bits[:, None]) != 0
  lonely, unread = ~allowed.any(2), ~allowed.any(1)
  # Rows without a key are no business of the library's attention.
  alive = jnp.asarray(~lonely)[..., None, None]
  dense = with_gradients(
    lambda q, k, v: (
      alive * jax.nn.dot_product_attention(q, k, v, mask=jnp.asarray(allowed)[:, None])
    ),
    dy,
  )
  wanted = reference(q, k, v, q_bits, k_bits, dy)
  y, dq, dk, dv = got
  return {
    'errors': [float(np.linalg.norm(x - z)) for x, z in zip(got, wanted, strict=True)],
    'errors of dense attention': [
      float(np.linalg.norm(x - z)) for x, z in zip(dense, wanted, strict=True)
    ],
    'should be zero': [
      float(np.abs(x).max()) for x in (y[lonely], dq[lonely], dk[unread], dv[unread]) if x.size
    ],
    'should not be zero': float(np.abs(y[~lonely]).max(-1).min()),
    'blocks': np.asarray(tables.by_query.what)[: int(tables.by_query.count[0])].tolist(),
    'races': any(races),
  }


def main() -> None:
  print(json.dumps({name: examine(*case) for name, case in cases().items()}))


if __name__ == '__main__':
  main()
