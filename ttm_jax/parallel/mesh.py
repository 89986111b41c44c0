"""The device mesh, and where parameters and batches lie on it."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from ttm_jax.errors import InputError, nearest

AXES = ('data', 'fsdp', 'sequence', 'tensor')
HOST = 'pinned_host'

# Where arrays lie can be said of devices that are not there, too.
AnyMesh = Mesh | AbstractMesh
BATCH = PartitionSpec(('data', 'fsdp'))


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh of the axes data, fsdp, sequence, tensor.

  On TPUs neighbours along an axis are neighbours of the network. Several slices lie one after the
  other along `data`, so that only the gradients' sum goes over the network between them.

  Args:
    sizes: by axis, 1 where missing; one may be -1: what the others leave.
    devices: all devices by default.

  Raises:
    InputError: for an unknown axis, or where the sizes do not multiply to the number of devices, or
      slices do not divide `data`.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = mesh_sizes(sizes, len(devices))
  types = (AxisType.Auto,) * len(AXES)
  return Mesh(_arranged(shape, devices), AXES, axis_types=types)


def mesh_sizes(sizes: Mapping[str, int], count: int) -> tuple[int, ...]:
  """The sizes of all axes for so many devices; see `make_mesh`.

  Raises:
    InputError: for an unknown axis, or where the sizes do not multiply to the number of devices.
  """
  for axis in sizes:
    if axis not in AXES:
      raise InputError(f'mesh axis {axis!r} is unknown{nearest(axis, AXES)}: there are {AXES}')
  shape = [sizes.get(axis, 1) for axis in AXES]
  given = [size for size in shape if size != -1]
  fixed = math.prod(given)
  if shape.count(-1) > 1 or min(given) < 1 or count % fixed:
    raise InputError(
      f'mesh {_named(shape)} does not fit {count} devices: the sizes must multiply to that number'
      f' (one may be -1), as {_named(_nearest(shape, count))} do'
    )
  shape = [count // fixed if size == -1 else size for size in shape]
  if math.prod(shape) != count:
    raise InputError(
      f'mesh {_named(shape)} takes {math.prod(shape)} devices, there are {count}:'
      f' {_named(_nearest(shape, count))} takes them all'
    )
  return tuple(shape)


def _arranged(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
  """The devices as an array of this shape, near each other on the mesh where they are in fact."""
  if len(devices) == 1 or getattr(devices[0], 'platform', '') != 'tpu':
    return np.array(devices).reshape(shape)
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if shape[0] % slices:
    raise InputError(
      f'mesh axis data = {shape[0]} must be a multiple of the {slices} slices, since nothing else'
      f' goes over the network between them: set --config.mesh.data={slices}'
    )
  if slices == 1:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  return mesh_utils.create_hybrid_device_mesh(
    (shape[0] // slices, *shape[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
  )


def factorisations(count: int) -> list[tuple[int, ...]]:
  """All sizes of the four axes that multiply to a number."""
  divisors = [d for d in range(1, count + 1) if count % d == 0]
  found = []
  for first in itertools.product(divisors, repeat=len(AXES) - 1):
    rest, left = divmod(count, math.prod(first))
    if not left:
      found.append((*first, rest))
  return found


def _named(shape: Sequence[int]) -> dict[str, int]:
  return dict(zip(AXES, shape, strict=True))


def _nearest(shape: Sequence[int], count: int) -> tuple[int, ...]:
  """The sizes that multiply to a number and differ least, by factors, from those asked for."""

  def distance(other: Sequence[int]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(other, shape, strict=True) if b >= 1)

  # Of equals, the one that splits parameters most.
  return min(factorisations(count), key=lambda other: (round(distance(other), 6), -other[1]))


def check_batch(size: int, parts: int, mesh: AnyMesh) -> None:
  """Whether each device can take equal shares of each part of a batch.

  Args:
    size: samples of a batch; parts: into how many it is cut, one after the other.

  Raises:
    InputError: where it does not divide.
  """
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  share = parts * devices
  if size < 1 or parts < 1 or size % share:
    near = sorted({max(size // share, 1) * share, -(-max(size, 1) // share) * share})
    raise InputError(
      f'config.data.batch_size {size} must be a multiple of {share}: of config.train.accumulate'
      f' {parts} times the {devices} devices along mesh axes data and fsdp; nearest:'
      f' {" or ".join(map(str, near))}'
    )


def check_heads(heads: int, sizes: Mapping[str, int]) -> None:
  """Whether the heads of attention divide among the devices that share a sample.

  Raises:
    InputError: where they do not.
  """
  share = sizes.get('tensor', 1) * sizes.get('sequence', 1)
  if heads % share:
    fitting = [d for d in range(1, heads + 1) if heads % d == 0]
    raise InputError(
      f'{heads} heads of attention do not divide over mesh axes sequence x tensor ='
      f' {sizes.get("sequence", 1)} x {sizes.get("tensor", 1)}: their product must be'
      f' {_closest(share, fitting)}'
    )


def _closest(size: int, fitting: Iterable[int]) -> str:
  """'4 or 5': what fits just below and above a size."""
  below = [x for x in fitting if x <= size]
  above = [x for x in fitting if x > size]
  return ' or '.join(str(x) for x in (*below[-1:], *above[:1]))


def platform() -> str:
  """Where what is being traced will run: 'cpu', 'gpu' or 'tpu'.

  That of the mesh in force, which may be of devices that are not there (compiling ahead of time).
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
  """The batch axis split over data and fsdp."""
  return NamedSharding(mesh, BATCH)


def replicated(mesh: AnyMesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def shardings(tree: Any, table: Sequence[tuple[str, tuple]], mesh: AnyMesh) -> Any:
  """Where each array of a tree of parameters (or of their optimiser state) lies.

  Args:
    table: (pattern, mesh axis of each array axis); the first pattern that occurs in the path of a
      parameter decides. What no pattern meets, and axes that do not divide, are not split. An
      entry of (pattern, HOST) decides where what it meets lies, in the memory of the host.

  Returns:
    The same tree of NamedSharding.

  Raises:
    InputError: where a mesh axis divides so few of the arrays that most of what should be split
      over it would lie on every device.
  """
  wanted: dict[str, list[tuple[str, int, Any]]] = {}

  def place(path, leaf):
    name = '.'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)
    kind = None
    for pattern, axes in table:
      if axes == HOST:
        kind = HOST if leaf.ndim and re.search(pattern, name) else kind
      elif len(axes) == leaf.ndim and re.search(pattern, name):
        for axis, size in zip(axes, leaf.shape, strict=True):
          if axis:
            wanted.setdefault(axis, []).append((name, size, leaf))
        fits = [
          axis if axis and size % mesh.shape[axis] == 0 else None
          for axis, size in zip(axes, leaf.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*fits), memory_kind=kind)
    return NamedSharding(mesh, PartitionSpec(), memory_kind=kind)

  places = jax.tree_util.tree_map_with_path(place, tree)
  for axis, arrays in wanted.items():
    _check_split(axis, mesh.shape[axis], arrays)
  return places


def _check_split(axis: str, count: int, arrays: Sequence[tuple[str, int, Any]]) -> None:
  whole = [(name, size, leaf) for name, size, leaf in arrays if size % count]
  if sum(leaf.size for *_, leaf in whole) <= sum(leaf.size for *_, leaf in arrays) / 2:
    return
  name, size, _ = max(whole, key=lambda found: found[2].size)
  fitting = [d for d in range(1, size + 1) if size % d == 0]
  raise InputError(
    f'mesh axis {axis} = {count} does not divide most parameters, such as {name} along its {size}:'
    f' {_closest(count, fitting)} does'
  )
