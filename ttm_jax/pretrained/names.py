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
from ttm_jax.pretrained.weights import StoredTensor, Weights, unknown

Index = tuple[slice, ...]  # A part of an array: one slice of step 1 per axis.


@dataclasses.dataclass(frozen=True)
class TensorLayout:
  """A change of axis order between the checkpoint and our parameters.

  Attributes:
    ours: converts a checkpoint tensor to our layout.
    theirs: converts our array to the layout of the checkpoint.
    part: the part of the checkpoint tensor that `ours` converts to a part of our array. If None,
      the whole tensor is read for any part.
  """

  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[np.ndarray], np.ndarray]
  part: Callable[[Index], Index] | None = None

  def read(self, tensor: Any, index: Index) -> np.ndarray:
    """Return a part of a checkpoint tensor in our layout.

    Args:
      tensor: an array, or an object with `shape` and `__getitem__` for slices.
      index: the part, in our layout.
    """
    if self.part is None:
      return self.ours(np.asarray(tensor))[index]
    return self.ours(np.asarray(tensor[self.part(index)]))


_ALL = slice(None)
LAYOUTS = {
  'same': TensorLayout(lambda x: x, lambda x: x, lambda i: i),
  # [out, in] <-> [in, out].
  'linear': TensorLayout(np.transpose, np.transpose, lambda i: i[::-1]),
  # A 1 x 1 convolution, which is a linear map here: [out, in, 1, 1] <-> [in, out].
  'pointwise': TensorLayout(
    lambda x: x.reshape(x.shape[:2]).T,
    lambda x: x.T[..., None, None],
    lambda i: (i[1], i[0], _ALL, _ALL),
  ),
  # [out, in, h, w] <-> [h, w, in, out].
  'conv': TensorLayout(
    lambda x: x.transpose(2, 3, 1, 0),
    lambda x: x.transpose(3, 2, 0, 1),
    lambda i: (i[3], i[2], i[0], i[1]),
  ),
  # A 1-D convolution: [out, in, t] <-> [t, in, out].
  'conv1d': TensorLayout(np.transpose, np.transpose, lambda i: i[::-1]),
  # A convolution over patches of 1 x 2 x 2, linear here: [out, in, 1, 2, 2] <-> [2 * 2 * in, out].
  'patch': TensorLayout(
    lambda x: x[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, len(x)),
    lambda x: x.reshape(2, 2, -1, x.shape[-1]).transpose(3, 2, 0, 1)[:, :, None],
  ),
  # A table with a leading axis of one: [1, ...] <-> [...].
  'row': TensorLayout(lambda x: x[0], lambda x: x[None], lambda i: (_ALL, *i)),
  # A 3-D convolution: [out, in, t, h, w] <-> [t, h, w, in, out].
  'conv3d': TensorLayout(
    lambda x: x.transpose(2, 3, 4, 1, 0),
    lambda x: x.transpose(4, 3, 0, 1, 2),
    lambda i: (i[4], i[3], *i[:3]),
  ),
  # A 1 x 1 x 1 convolution: [out, in, 1, 1, 1] <-> [in, out].
  'pointwise3d': TensorLayout(
    lambda x: x.reshape(x.shape[:2]).T,
    lambda x: x.T[..., None, None, None],
    lambda i: (i[1], i[0], _ALL, _ALL, _ALL),
  ),
  # Scales of a norm of images or videos: [channels, 1, 1] or [channels, 1, 1, 1] <-> [channels].
  'scale2d': TensorLayout(
    lambda x: x.reshape(-1), lambda x: x[:, None, None], lambda i: (*i, _ALL, _ALL)
  ),
  'scale3d': TensorLayout(
    lambda x: x.reshape(-1), lambda x: x[:, None, None, None], lambda i: (*i, _ALL, _ALL, _ALL)
  ),
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

  def read(self, tensors: Sequence[Any], index: Index) -> np.ndarray:
    """Return a part of our parameter, contiguous float32; only what it needs is read.

    Args:
      tensors: the checkpoint tensors in the order of `theirs`, see `TensorLayout.read`.
      index: the part: one slice per axis of our parameter.
    """
    layout, ranges = (
      LAYOUTS[self.layout],
      [range(n)[s] for n, s in zip(self.shape, index, strict=True)],
    )
    out = np.empty([len(r) for r in ranges], np.float32)
    if self.stacked:
      for place, layer in enumerate(ranges[0]):
        out[place] = layout.read(tensors[layer], index[1:])
      return out
    if len(tensors) == 1:
      out[...] = layout.read(tensors[0], index)
      return out
    width, wanted = self.shape[-1] // len(tensors), ranges[-1]
    for number, tensor in enumerate(tensors):
      first = number * width
      begin, end = max(wanted.start, first), min(wanted.stop, first + width)
      if begin < end:
        inner = (*index[:-1], slice(begin - first, end - first))
        out[..., begin - wanted.start : end - wanted.start] = layout.read(tensor, inner)
    return out

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


class StoredParameter:
  """One of our parameters, read from a checkpoint when it is sliced or converted by NumPy.

  The value is not cached. Besides the result, at most one checkpoint tensor is in memory.

  Attributes:
    shape: shape of the parameter.
    dtype: float32.
    files: the files that hold its tensors.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, entry: Entry, tensors: Sequence[StoredTensor | np.ndarray]):
    self.shape = entry.shape
    self.files = {tensor.path for tensor in tensors if isinstance(tensor, StoredTensor)}
    self._entry, self._tensors = entry, tensors

  @property
  def ndim(self) -> int:
    """The number of axes."""
    return len(self.shape)

  def __getitem__(self, index: Index) -> np.ndarray:
    """Read a part of the parameter: one slice of step 1 per axis."""
    return self._entry.read(self._tensors, index)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self[(_ALL,) * self.ndim], dtype)


def import_parameters(
  table: Sequence[Entry], weights: Weights, ignored: Iterable[str] = ()
) -> dict[str, Any]:
  """Return our parameters from the tensors of a checkpoint, checked by name and shape.

  Args:
    table: name table of the model.
    weights: tensors of the checkpoint.
    ignored: names of tensors that may be present without an entry in the table.

  Returns:
    Nested dict of `StoredParameter`; their values are read when they are used.

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
    inner[leaf] = StoredParameter(entry, [weights.tensors[name] for name in entry.theirs])
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
