"""Arrays that are loaded when NumPy asks for them, several in one read."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_TOGETHER = 2**26  # Bytes of one read.

# Key path of an array in a nested dict, and its metadata with shape and dtype.
Leaf = tuple[tuple, Any]


class StoredArray:
  """A lazily loaded array of a file.

  NumPy loads it through `__array__`; the value is not cached. Each read parses the list of all
  arrays, so neighboring arrays are loaded in the same read of up to 64 MiB. They stay in memory
  until each has been taken once.

  Attributes:
    shape: shape of the array.
  """

  def __init__(self, shape: tuple[int, ...], take: Callable[[], np.ndarray]):
    self.shape = shape
    self._take = take

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    array = self._take()
    return array if dtype is None else array.astype(dtype, copy=False)


class _Group:
  """A group of arrays that are loaded in one read and returned one by one."""

  def __init__(self, read: Callable[[], list[np.ndarray]]):
    self._read = read
    self._waiting: dict[int, np.ndarray] = {}

  def take(self, number: int) -> np.ndarray:
    if number not in self._waiting:
      self._waiting = dict(enumerate(self._read()))
    return self._waiting.pop(number)


def lazy(leaves: Sequence[Leaf], read: Callable[[list[Leaf]], list[np.ndarray]]) -> dict[str, Any]:
  """Return a nested dict of `StoredArray`.

  Args:
    leaves: key path and metadata of each array; neighbors are read together.
    read: reads the arrays of some leaves, in their order.
  """
  stored = []
  for leaves_of_group in _groups(leaves):
    group = _Group(functools.partial(read, leaves_of_group))
    stored += [
      (path, StoredArray(tuple(leaf.shape), functools.partial(group.take, i)))
      for i, (path, leaf) in enumerate(leaves_of_group)
    ]
  return nested(stored)


def _groups(leaves: Sequence[Leaf]) -> Iterator[list[Leaf]]:
  """Group consecutive (path, metadata) leaves up to _TOGETHER bytes; a larger leaf is alone."""
  group: list[Leaf] = []
  size = 0
  for path, leaf in leaves:
    nbytes = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    if group and size + nbytes > _TOGETHER:
      yield group
      group, size = [], 0
    group.append((path, leaf))
    size += nbytes
  if group:
    yield group


def nested(leaves: Iterable[Leaf]) -> dict[str, Any]:
  """Build a nested dict from (path, leaf) pairs."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves:
    inner = tree
    for key in path[:-1]:
      inner = inner.setdefault(key.key, {})
    inner[path[-1].key] = leaf
  return tree
