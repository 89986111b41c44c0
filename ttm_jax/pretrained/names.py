"""Name tables between PyTorch checkpoints and our parameters, read in both directions.

A table says for each of our parameters under which name (or names, where we join several) the other
side has it, and how its axes lie there. Import demands that every tensor has its place, and every
place its tensor.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pretrained.weights import Weights, unknown


@dataclasses.dataclass(frozen=True)
class TensorLayout:
  """How the axes of a tensor lie: `ours` brings theirs to ours, `theirs` back."""

  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
  'same': TensorLayout(lambda x: x, lambda x: x),
  # [out, in] and [in, out].
  'linear': TensorLayout(np.transpose, np.transpose),
  # A 1 x 1 convolution [out, in, 1, 1], which here is a linear map.
  'pointwise': TensorLayout(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[..., None, None]),
  # [out, in, h, w] and [h, w, in, out].
  'conv': TensorLayout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
  # A convolution along one axis: [out, in, t] and [t, in, out].
  'conv1d': TensorLayout(np.transpose, np.transpose),
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One parameter.

  Attributes:
    ours: its path, the keys of the nested dict of our parameters.
    theirs: names on the other side; of several, the parts lie along our last axis in this order.
    shape: of ours.
    layout: a name of `LAYOUTS`, of each of theirs.
    stacked: whether theirs are layers that lie along a first axis of ours, and not parts.
  """

  ours: tuple[str | int, ...]
  theirs: tuple[str, ...]
  shape: tuple[int, ...]
  layout: str
  stacked: bool = False

  def tensor_shape(self) -> tuple[int, ...]:
    """The shape of each of theirs."""
    if self.stacked:
      part = self.shape[1:]
    elif len(self.theirs) == 1:
      part = self.shape
    else:
      part = (*self.shape[:-1], self.shape[-1] // len(self.theirs))
    return LAYOUTS[self.layout].theirs(np.broadcast_to(np.float32(0), part)).shape

  def joined(self, tensors: Iterable[np.ndarray]) -> np.ndarray:
    """Our parameter, contiguous, from theirs in the order of the names."""
    parts = [LAYOUTS[self.layout].ours(tensor) for tensor in tensors]
    if self.stacked:
      return np.stack(parts)
    # `ascontiguousarray` would make a scalar a vector.
    return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts, -1), order='C')

  def parted(self, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Theirs, contiguous and with their names, from our parameter; one at a time."""
    if self.stacked:
      parts: Iterable[np.ndarray] = array
    else:
      parts = [array] if len(self.theirs) == 1 else np.split(array, len(self.theirs), -1)
    for name, part in zip(self.theirs, parts, strict=True):
      # Safetensors writes the memory as it lies: a transposed view would come back wrong.
      yield name, np.asarray(LAYOUTS[self.layout].theirs(part), order='C')


def import_parameters(
  table: Sequence[Entry], weights: Weights, ignored: Iterable[str] = ()
) -> dict[str, Any]:
  """Our parameters, a nested dict of float32 arrays, from the tensors of a checkpoint.

  Args:
    ignored: names of tensors that the caller accounts for.

  Raises:
    InputError: naming a tensor that is missing, of another shape, or without a place.
  """
  known = [name for entry in table for name in entry.theirs]
  for entry in table:
    for name in entry.theirs:
      if name not in weights.tensors:
        raise InputError(f'{weights.folder}: tensor {name} is missing; the model needs it')
      found, wanted = weights.tensors[name].shape, entry.tensor_shape()
      if found != wanted:
        raise InputError(
          f'{weights.folder}: tensor {name} is {list(found)}, the model needs {list(wanted)}'
        )
  if strange := sorted(set(weights.tensors) - set(known) - set(ignored)):
    raise unknown(weights, strange, known)
  params: dict[Any, Any] = {}
  for entry in table:
    *path, leaf = entry.ours
    inner = params
    for key in path:
      inner = inner.setdefault(key, {})
    inner[leaf] = entry.joined(weights.tensors[name] for name in entry.theirs)
  return params


def export_tensors(table: Sequence[Entry], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The tensors of a checkpoint, contiguous, from our parameters: the inverse of import."""
  return dict(iterate_tensors(table, params))


def iterate_tensors(
  table: Sequence[Entry], params: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Like `export_tensors`, one tensor with its name at a time.

  Args:
    params: nested dict of arrays, or of what becomes one when NumPy asks (`__array__`): each is
      asked once, and let go when its tensors have been taken.
  """
  for entry in table:
    array: Any = params
    for key in entry.ours:
      array = array[key]
    yield from entry.parted(np.asarray(array))
