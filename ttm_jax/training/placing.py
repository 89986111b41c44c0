"""Copy parameters from files to the devices of a mesh, part by part.

Host memory holds one part at a time: a few layers of a stacked parameter, a small parameter, or
one tensor of a checkpoint. It does not grow with the depth of the network.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from ttm_jax.parallel.mesh import replicated
from ttm_jax.training import digests

PART = 2**26  # Bytes of a part, if the parameter can be split into parts as small.

Index = tuple[slice, ...]


def place(
  tree: Any, places: Any, dtypes: Any, progress: Callable[[], None] = lambda: None
) -> tuple[Any, list[int]]:
  """Return the parameters as sharded arrays, and the checksum of each.

  All processes of a job call this together. Each reads parameters of up to `PART` bytes whole, and
  of larger ones at least its own shards.

  Args:
    tree: parameters: arrays, or objects with `shape` that NumPy can convert. Large objects with
      `__getitem__` are read in slices.
    places: a tree of NamedSharding with the structure of `tree`.
    dtypes: a tree of the dtypes on the devices.
    progress: called after each part.

  Returns:
    A tree of arrays, and the checksums of the values as they were read (see `digests`), in the
    order of its leaves.
  """
  sums: list[int] = []

  def placed(x: Any, where: NamedSharding, dtype: Any) -> jax.Array:
    array, total = _placed(x, where, dtype, progress)
    sums.append(total)
    return array

  return jax.tree.map(placed, tree, places, dtypes), sums


def _placed(
  x: Any, where: NamedSharding, dtype: Any, progress: Callable[[], None]
) -> tuple[jax.Array, int]:
  """Return one parameter on the devices, and its checksum."""
  shape = tuple(x.shape)
  if 4 * math.prod(shape) <= PART or not hasattr(x, '__getitem__'):
    x = np.asarray(x)
    progress()
    return _sharded(x.astype(dtype), where), digests.sum_on_host(x)
  axis, rows = _split(shape, where)
  put = _program(where, axis)
  whole = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=where)()
  sums: list[Any] = []
  for begin in range(0, shape[axis], rows):
    part: Any = _Window(x, axis, begin, rows)
    if where.is_fully_addressable:
      part = part[(slice(None),) * len(shape)]  # At once: faster than once per device.
    whole, new = put(whole, _sharded(part, where), begin)
    # Wait for the part before, so that no more than two are in memory.
    sums = [sum(map(int, sums)), new]
    progress()
  return whole, sum(map(int, sums)) % 2**32


def _split(shape: tuple[int, ...], where: NamedSharding) -> tuple[int, int]:
  """Return the axis along which to split a parameter, and the size of its parts along this axis.

  The parts are of equal size, of at most `PART` bytes if possible. No mesh axis splits this axis.
  Without such an axis, the parameter is one part.
  """
  local = where.shard_shape(shape)
  free = [axis for axis, size in enumerate(shape) if local[axis] == size > 1]
  if not free:
    return 0, shape[0]
  size, row = shape[free[0]], 4 * math.prod(shape) // shape[free[0]]
  fitting = (n for n in range(size, 0, -1) if size % n == 0 and n * row <= PART)
  return free[0], next(fitting, 1)


class _Window:
  """Some rows of a parameter along one axis, which are read when they are sliced."""

  def __init__(self, x: Any, axis: int, begin: int, rows: int):
    self.shape = (*x.shape[:axis], rows, *x.shape[axis + 1 :])
    self._x, self._axis, self._begin = x, axis, begin

  def __getitem__(self, index: Index) -> np.ndarray:
    shifted = [slice(*s.indices(n)) for s, n in zip(index, self.shape, strict=True)]
    rows = shifted[self._axis]
    shifted[self._axis] = slice(rows.start + self._begin, rows.stop + self._begin)
    return np.asarray(self._x[tuple(shifted)])


def _sharded(x: Any, where: NamedSharding) -> jax.Array:
  return jax.make_array_from_callback(x.shape, where, lambda index: x[index])


@functools.cache
def _program(where: NamedSharding, axis: int) -> Any:
  """Return a program that copies a part into a parameter, and returns the checksum of the part."""

  def put(whole: jax.Array, part: jax.Array, begin: jax.Array) -> tuple[jax.Array, jax.Array]:
    written = part.astype(whole.dtype)
    whole = jax.lax.dynamic_update_slice_in_dim(whole, written, begin, axis)
    return whole, digests.sum_on_device(part)

  return jax.jit(put, donate_argnums=0, out_shardings=(where, replicated(where.mesh)))
