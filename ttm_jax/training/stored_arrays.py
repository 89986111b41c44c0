"""Arrays of a checkpoint that are loaded when NumPy asks for them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath

from ttm_jax.data.storage import is_local


class StoredArray:
  """A lazily loaded array.

  NumPy loads it through `__array__`; slices load only what they need. Values are not cached.

  Attributes:
    shape: shape of the array.
  """

  def __init__(
    self, shape: tuple[int, ...], read: Callable[[tuple[slice, ...] | None], np.ndarray]
  ):
    """Args:
    shape: shape of the array.
    read: reads a part of it, or all of it for None.
    """
    self.shape = shape
    self._read = read

  def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
    return self._read(index)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    array = self._read(None)
    return array if dtype is None else array.astype(dtype, copy=False)


def open_arrays(folder: epath.Path, names: Sequence[str]) -> list[ts.TensorStore]:
  """Open arrays that Orbax saved in a folder, by their names.

  Raises:
    Exception: from TensorStore, if an array is missing or its metadata is corrupt.
  """
  base = {'driver': 'file', 'path': f'{folder}/'} if is_local(folder) else f'{folder}/'
  context = ts.Context()  # Shared, so that the list of arrays is read once.
  opened = [
    ts.open(
      {'driver': 'zarr', 'kvstore': {'driver': 'ocdbt', 'base': base, 'path': f'{name}/'}},
      open=True,
      read=True,
      context=context,
    )
    for name in names
  ]
  return [store.result() for store in opened]
