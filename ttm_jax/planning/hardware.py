"""Describe the target hardware of a plan: TPU slices and GPU nodes."""

import dataclasses
import math
import re

from ttm_jax.errors import InputError, nearest
from ttm_jax.parallel.chips import CHIPS, Chip

_FLAT = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBE = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16')

# The available slice topologies of each TPU generation.
SLICES = {
  'v4': (*_CUBE, '8x16x16'),
  'v5e': _FLAT,
  'v5p': (*_CUBE, '8x16x16', '16x16x16', '16x16x24'),
  'v6e': _FLAT,
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """The number and type of devices, and their grouping by network.

  Attributes:
    name: the requested name, such as 'v5p:4x4x4' or 'h100x64'.
    chip: the type of the devices.
    devices: total number of devices.
    slices: number of TPU slices or GPU nodes, which only the slower network (DCN, InfiniBand)
      connects.
  """

  name: str
  chip: Chip
  devices: int
  slices: int

  @property
  def title(self) -> str:
    """A readable name with the number of devices."""
    several = f'{self.slices} slices of ' if self.slices > 1 and self.chip.group == 0 else ''
    return f'{several}{self.name}: {self.devices} devices'


def topology(name: str, slices: int = 1) -> Topology:
  """Return the topology of a name.

  Args:
    name: a TPU slice ('v5p:4x4x4') or a number of GPUs ('h100x64').
    slices: number of TPU slices; 1 for GPUs.

  Raises:
    InputError: the name is unknown, `slices` is invalid, or the GPUs do not fill whole nodes.
  """
  if slices < 1:
    raise InputError(f'--num_slices must be 1 or more, got {slices}')
  kind, colon, shape = name.partition(':')
  if colon and kind in SLICES:
    if shape not in SLICES[kind]:
      known = ', '.join(f'{kind}:{s}' for s in SLICES[kind])
      raise InputError(f'topology {name!r} is unknown{nearest(shape, SLICES[kind])}: {known}')
    count = math.prod(int(size) for size in shape.split('x'))
    return Topology(name, CHIPS[kind], count * slices, slices)
  match = re.fullmatch(r'(\w+?)x(\d+)', name)
  chip = CHIPS.get(match.group(1)) if match else None
  if match is None or chip is None or chip.platform != 'gpu' or int(match.group(2)) < 1:
    raise InputError(f'topology {name!r} is unknown: use one of {known_topologies()}')
  if slices > 1:
    raise InputError(f'--num_slices is for TPUs only: {name} already gives the number of GPUs')
  count = int(match.group(2))
  if count > chip.group and count % chip.group:
    raise InputError(
      f'{name} does not fill whole nodes of {chip.group} GPUs: use'
      f' {count // chip.group * chip.group} or {-(-count // chip.group) * chip.group} GPUs'
    )
  return Topology(name, chip, count, max(count // chip.group, 1))


def known_topologies() -> str:
  """Return a readable list of the names that `topology` accepts."""
  tpus = [f'{kind}:{shapes[0]} to {kind}:{shapes[-1]}' for kind, shapes in SLICES.items()]
  gpus = [f'{name}xN' for name, chip in CHIPS.items() if chip.platform == 'gpu']
  return ', '.join([*tpus, *gpus])
