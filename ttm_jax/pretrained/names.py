"""Name tables that map PyTorch checkpoints to our parameters and back.

A table gives, for each of our parameters, the tensor in the checkpoint and the order of its axes.
One parameter may concatenate several tensors. An import is exact: it fails if a tensor is missing
or unknown.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pretrained.weights import Weights, unknown


@dataclasses.dataclass(frozen=True)
class TensorLayout:
  """A change of axis order between the checkpoint and our parameters.

  Attributes:
    ours: converts a checkpoint tensor to our layout.
    theirs: converts our array to the layout of the checkpoint.
  """

  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
  'same': TensorLayout(lambda x: x, lambda x: x),
  # [out, in] <-> [in, out].
  'linear': TensorLayout(np.transpose, np.transpose),
  # A 1 x 1 convolution, which is a linear map here: [out, in, 1, 1] <-> [in, out].
  'pointwise': TensorLayout(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[..., None, None]),
  # [out, in, h, w] <-> [h, w, in, out].
  'conv': TensorLayout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
  # A 1-D convolution: [out, in, t] <-> [t, in, out].
  'conv1d': TensorLayout(np.transpose, np.transpose),
  # A convolution over patches of 1 x 2 x 2, linear here: [out, in, 1, 2, 2] <-> [2 * 2 * in, out].
  'patch': TensorLayout(
    lambda x: x[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, len(x)),
    lambda x: x.reshape(2, 2, -1, x.shape[-1]).transpose(3, 2, 0, 1)[:, :, None],
  ),
  # A table with a leading axis of one: [1, ...] <-> [...].
  'row': TensorLayout(lambda x: x[0], lambda x: x[None]),
  # A 3-D convolution: [out, in, t, h, w] <-> [t, h, w, in, out].
  'conv3d': TensorLayout(
    lambda x: x.transpose(2, 3, 4, 1, 0), lambda x: x.transpose(4, 3, 0, 1, 2)
  ),
  # A 1 x 1 x 1 convolution: [out, in, 1, 1, 1] <-> [in, out].
  'pointwise3d': TensorLayout(
    lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[..., None, None, None]
  ),
  # Scales of a norm of images or videos: [channels, 1, 1] or [channels, 1, 1, 1] <-> [channels].
  'scale2d': TensorLayout(lambda x: x.reshape(-1), lambda x: x[:, None, None]),
  'scale3d': TensorLayout(lambda x: x.reshape(-1), lambda x: x[:, None, None, None]),
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """The mapping of one of our parameters to tensors of a checkpoint.

  Attributes:
    ours: path of the parameter, as keys of the nested dict of our parameters.
    theirs: tensor names in the checkpoint. Several tensors are concatenated along our last axis in
      this order.
    shape: shape of our parameter.
    layout: axis order of each tensor, a name in `LAYOUTS`.
    stacked: whether the tensors are layers, stacked along our first axis instead of concatenated.
  """

  ours: tuple[str | int, ...]
  theirs: tuple[str, ...]
  shape: tuple[int, ...]
  layout: str
  stacked: bool = False

  def tensor_shape(self) -> tuple[int, ...]:
    """Return the shape of each tensor in the checkpoint."""
    if self.stacked:
      part = self.shape[1:]
    elif len(self.theirs) == 1:
      part = self.shape
    else:
      part = (*self.shape[:-1], self.shape[-1] // len(self.theirs))
    return LAYOUTS[self.layout].theirs(np.broadcast_to(np.float32(0), part)).shape

  def joined(self, tensors: Iterable[np.ndarray]) -> np.ndarray:
    """Return our parameter, contiguous, from checkpoint tensors in the order of `theirs`."""
    parts = [LAYOUTS[self.layout].ours(tensor) for tensor in tensors]
    if self.stacked:
      return np.stack(parts)
    # `ascontiguousarray` would turn a scalar into a vector.
    return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts, -1), order='C')

  def parted(self, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the (name, contiguous array) of each checkpoint tensor of our parameter."""
    if self.stacked:
      parts: Iterable[np.ndarray] = array
    else:
      parts = [array] if len(self.theirs) == 1 else np.split(array, len(self.theirs), -1)
    for name, part in zip(self.theirs, parts, strict=True):
      # Safetensors ignores strides and writes raw memory: a transposed view would be read back
      # wrong.
      yield name, np.asarray(LAYOUTS[self.layout].theirs(part), order='C')


def import_parameters(
  table: Sequence[Entry], weights: Weights, ignored: Iterable[str] = ()
) -> dict[str, Any]:
  """Return our parameters from the tensors of a checkpoint.

  Args:
    table: name table of the model.
    weights: tensors of the checkpoint.
    ignored: names of tensors that may be present without an entry in the table.

  Returns:
    Nested dict of float32 arrays.

  Raises:
    InputError: a tensor is missing, unknown, or of another shape. The message names it.
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
  """Return checkpoint tensors by name, contiguous, from our parameters; inverts the import."""
  return dict(iterate_tensors(table, params))


def iterate_tensors(
  table: Sequence[Entry], params: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yield the (name, array) pairs of `export_tensors` one at a time, to bound the memory.

  Args:
    table: name table of the model.
    params: nested dict of arrays, or of objects with `__array__`. Each is converted once, and
      released after its tensors have been consumed.
  """
  for entry in table:
    array: Any = params
    for key in entry.ours:
      array = array[key]
    yield from entry.parted(np.asarray(array))
