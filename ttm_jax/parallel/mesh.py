"""The device mesh, and the shardings of parameters and batches on it."""

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
HOST = 'pinned_host'  # Memory kind of arrays in host memory.

# Shardings are also made for target hardware (ahead-of-time compilation), with an abstract mesh.
AnyMesh = Mesh | AbstractMesh
BATCH = PartitionSpec(('data', 'fsdp'))


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
  """Return a mesh with the axes data, fsdp, sequence and tensor.

  On TPUs, neighbors along an axis are neighbors in the interconnect (ICI). Several slices are
  placed along `data`, so that only the gradient all-reduce crosses the network between them (DCN).

  Args:
    sizes: size of each axis, 1 where missing. One size may be -1: all remaining devices.
    devices: all devices by default.

  Raises:
    InputError: if an axis is unknown, the sizes do not multiply to the number of devices, or the
      number of slices does not divide `data`.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = mesh_sizes(sizes, len(devices))
  types = (AxisType.Auto,) * len(AXES)
  return Mesh(_arranged(shape, devices), AXES, axis_types=types)


def mesh_sizes(sizes: Mapping[str, int], count: int) -> tuple[int, ...]:
  """Return the sizes of all four axes, in the order of `AXES`.

  Args:
    sizes: as for `make_mesh`.
    count: number of devices.

  Raises:
    InputError: if an axis is unknown or the sizes do not multiply to the number of devices.
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
  """Return the devices as an array of a shape; on TPUs, mesh neighbors are physical neighbors."""
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
  """Return all sizes of the four axes that multiply to `count`."""
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
  """Return the sizes that multiply to `count` and are nearest to `shape` in log distance."""

  def distance(other: Sequence[int]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(other, shape, strict=True) if b >= 1)

  # Ties go to the largest fsdp size, which shards parameters most.
  return min(factorisations(count), key=lambda other: (round(distance(other), 6), -other[1]))


def check_batch(size: int, parts: int, mesh: AnyMesh) -> None:
  """Check that each microbatch divides evenly among the devices along data and fsdp.

  Args:
    size: samples per batch.
    parts: microbatches per batch (gradient accumulation).
    mesh: the mesh.

  Raises:
    InputError: if it does not.
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
  """Check that the attention heads divide over the mesh axes sequence x tensor.

  Args:
    heads: number of attention heads.
    sizes: size of each mesh axis, by name; 1 where missing.

  Raises:
    InputError: if they do not.
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
  """Return the nearest fitting sizes at or below and above `size`, as text: '4 or 5'."""
  below = [x for x in fitting if x <= size]
  above = [x for x in fitting if x > size]
  return ' or '.join(str(x) for x in (*below[-1:], *above[:1]))


def platform() -> str:
  """Return the platform of the current mesh: 'cpu', 'gpu' or 'tpu'.

  With ahead-of-time compilation this is the target hardware, not the local devices.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
  """Return the sharding of a batch: its first axis over data and fsdp."""
  return NamedSharding(mesh, BATCH)


def replicated(mesh: AnyMesh) -> NamedSharding:
  """Return the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def shardings(tree: Any, table: Sequence[tuple[str, tuple]], mesh: AnyMesh) -> Any:
  """Return the sharding of each array of a tree of parameters or optimizer state.

  Args:
    tree: arrays, or objects with their shapes.
    table: sharding rules (regular expression, mesh axis or None of each array axis). The first rule
      that has as many axes as the array and whose expression is found in its dotted path applies.
      Arrays without a rule are replicated. Array axes that the mesh axis does not divide are not
      sharded. A rule (regular expression, HOST) puts arrays with one or more axes in host memory; a
      later rule shards them.
    mesh: the mesh.

  Returns:
    A tree of NamedSharding with the structure of `tree`.

  Raises:
    InputError: if a mesh axis does not divide more than half of the values that rules shard over
      it, which would then be replicated.
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

  chosen = jax.tree_util.tree_map_with_path(place, tree)
  for axis, arrays in wanted.items():
    _check_split(axis, mesh.shape[axis], arrays)
  return chosen


def _check_split(axis: str, count: int, arrays: Sequence[tuple[str, int, Any]]) -> None:
  """Raise InputError if a mesh axis of size `count` does not divide most values.

  Args:
    axis: name of the mesh axis.
    count: its size.
    arrays: (path, size of the array axis to shard, array) of all arrays with a rule for this axis.
  """
  whole = [(name, size, leaf) for name, size, leaf in arrays if size % count]
  if sum(leaf.size for *_, leaf in whole) <= sum(leaf.size for *_, leaf in arrays) / 2:
    return
  name, size, _ = max(whole, key=lambda found: found[2].size)
  fitting = [d for d in range(1, size + 1) if size % d == 0]
  raise InputError(
    f'mesh axis {axis} = {count} does not divide most parameters, such as {name} along its {size}:'
    f' {_closest(count, fitting)} does'
  )
