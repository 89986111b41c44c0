"""Name tables between PyTorch checkpoints and our parameters, read in both directions.

A table says for each of our parameters under which name (or names, where we join several) the other
side has it, and how its axes lie there. Import demands that every tensor has its place, and every
place its tensor.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pretrained.weights import Weights, unknown


@dataclasses.dataclass(frozen=True)
class Layout:
  """How the axes of a tensor lie: `ours` brings theirs to ours, `theirs` back."""

  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
  'same': Layout(lambda x: x, lambda x: x),
  # [out, in] and [in, out].
  'linear': Layout(np.transpose, np.transpose),
  # A 1 x 1 convolution [out, in, 1, 1], which here is a linear map.
  'pointwise': Layout(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[..., None, None]),
  # [out, in, h, w] and [h, w, in, out].
  'conv': Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One parameter.

  Attributes:
    ours: its path, the keys of the nested dict of our parameters.
    theirs: names on the other side; of several, the parts lie along our last axis in this order.
    shape: of ours.
    layout: a name of `LAYOUTS`.
  """

  ours: tuple[str | int, ...]
  theirs: tuple[str, ...]
  shape: tuple[int, ...]
  layout: str

  def tensor_shape(self) -> tuple[int, ...]:
    """The shape of each of theirs."""
    part = (*self.shape[:-1], self.shape[-1] // len(self.theirs))
    return LAYOUTS[self.layout].theirs(np.broadcast_to(np.float32(0), part)).shape


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
    parts = [LAYOUTS[entry.layout].ours(weights.tensors[name]) for name in entry.theirs]
    *path, leaf = entry.ours
    inner = params
    for key in path:
      inner = inner.setdefault(key, {})
    inner[leaf] = np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, -1))
  return params


def export_tensors(table: Sequence[Entry], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The tensors of a checkpoint, contiguous, from our parameters: the inverse of import."""
  tensors = {}
  for entry in table:
    array: Any = params
    for key in entry.ours:
      array = array[key]
    for name, part in zip(
      entry.theirs, np.split(np.asarray(array), len(entry.theirs), -1), strict=True
    ):
      # Safetensors writes the memory as it lies: a transposed view would come back wrong.
      tensors[name] = np.ascontiguousarray(LAYOUTS[entry.layout].theirs(part))
  return tensors
