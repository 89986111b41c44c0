"""The device mesh, and where parameters and batches lie on it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ttm_jax.errors import InputError, nearest

AXES = ('data', 'fsdp', 'sequence', 'tensor')
BATCH = PartitionSpec(('data', 'fsdp'))


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh of the axes data, fsdp, sequence, tensor.

  Args:
    sizes: by axis, 1 where missing; one may be -1: what the others leave.
    devices: all devices by default.

  Raises:
    InputError: for an unknown axis, or where the sizes do not multiply to the number of devices.
  """
  for axis in sizes:
    if axis not in AXES:
      raise InputError(f'mesh axis {axis!r} is unknown{nearest(axis, AXES)}: there are {AXES}')
  devices = list(jax.devices() if devices is None else devices)
  shape = [sizes.get(axis, 1) for axis in AXES]
  given = [size for size in shape if size != -1]
  fixed = int(np.prod(given))
  if shape.count(-1) > 1 or min(given) < 1 or len(devices) % fixed:
    raise InputError(
      f'mesh {dict(zip(AXES, shape, strict=True))} does not fit {len(devices)} devices: the sizes'
      ' must multiply to that number (one may be -1)'
    )
  shape = [len(devices) // fixed if size == -1 else size for size in shape]
  if int(np.prod(shape)) != len(devices):
    raise InputError(
      f'mesh {dict(zip(AXES, shape, strict=True))} takes {int(np.prod(shape))} devices, there are'
      f' {len(devices)}'
    )
  types = (AxisType.Auto,) * len(AXES)
  return Mesh(np.array(devices).reshape(shape), AXES, axis_types=types)


def platform() -> str:
  """Where what is being traced will run: 'cpu', 'gpu' or 'tpu'.

  That of the mesh in force, which may be of devices that are not there (compiling ahead of time).
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The batch axis split over data and fsdp."""
  return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def shardings(tree: Any, table: Sequence[tuple[str, tuple]], mesh: Mesh) -> Any:
  """Where each array of a tree of parameters (or of their optimiser state) lies.

  Args:
    table: (pattern, mesh axis of each array axis); the first pattern that occurs in the path of a
      parameter decides. What no pattern meets, and axes that do not divide, are not split.

  Returns:
    The same tree of NamedSharding.
  """

  def place(path, leaf):
    name = '.'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)
    for pattern, axes in table:
      if re.search(pattern, name) and len(axes) == leaf.ndim:
        fits = [
          axis if axis and size % mesh.shape[axis] == 0 else None
          for axis, size in zip(axes, leaf.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*fits))
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(place, tree)
