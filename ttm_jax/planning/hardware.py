"""The machines a run can be planned for: what a device computes, holds and sends."""

import dataclasses
import math
import re

from ttm_jax.errors import InputError, nearest

GB, GIB, TERA = 1e9, float(1 << 30), 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device.

  Attributes:
    platform: 'tpu' or 'gpu'.
    flops: dense bfloat16 peak, FLOP/s.
    memory: bytes that a program may use.
    bandwidth: of its memory, bytes/s.
    near: bytes/s that it sends to its neighbours (ICI, NVLink): all links, one way.
    far: bytes/s that it sends beyond its slice or node (DCN, InfiniBand), its share of the host's.
    group: devices that the near network joins, of GPUs; of TPUs the whole slice.
  """

  platform: str
  flops: float
  memory: float
  bandwidth: float
  near: float
  far: float
  group: int = 0


# Vendors' data sheets; for TPUs also the book "How to Scale Your Model" (links, one way). Memory of
# TPUs is what the compiler grants, of GPUs what the data sheet says.
CHIPS = {
  'v4': Chip('tpu', 275 * TERA, 31.25 * GIB, 1228 * GB, 6 * 45 * GB, 6.25 * GB),
  'v5e': Chip('tpu', 197 * TERA, 15.75 * GIB, 819 * GB, 4 * 45 * GB, 6.25 * GB),
  'v5p': Chip('tpu', 459 * TERA, 95.74 * GIB, 2765 * GB, 6 * 90 * GB, 6.25 * GB),
  'v6e': Chip('tpu', 918 * TERA, 31.25 * GIB, 1640 * GB, 4 * 90 * GB, 12.5 * GB),
  'a100': Chip('gpu', 312 * TERA, 80 * GB, 2039 * GB, 300 * GB, 25 * GB, 8),
  'h100': Chip('gpu', 989 * TERA, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, 8),
  'h200': Chip('gpu', 989 * TERA, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, 8),
  'b200': Chip('gpu', 2250 * TERA, 180 * GB, 7700 * GB, 900 * GB, 50 * GB, 8),
}

_FLAT = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBE = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16')

# Slices that can be had of each TPU.
SLICES = {
  'v4': (*_CUBE, '8x16x16'),
  'v5e': _FLAT,
  'v5p': (*_CUBE, '8x16x16', '16x16x16', '16x16x24'),
  'v6e': _FLAT,
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices and how they hang together.

  Attributes:
    name: as it was asked for, 'v5p:4x4x4' or 'h100x64'.
    chip: what each device is.
    devices: all of them.
    slices: groups that only the far network joins: slices of TPUs, nodes of GPUs.
  """

  name: str
  chip: Chip
  devices: int
  slices: int

  @property
  def title(self) -> str:
    several = f'{self.slices} slices of ' if self.slices > 1 and self.chip.group == 0 else ''
    return f'{several}{self.name}: {self.devices} devices'


def topology(name: str, slices: int = 1) -> Topology:
  """The machine of that name.

  Args:
    name: a TPU slice ('v5p:4x4x4'), or a number of GPUs ('h100x64').
    slices: how many such TPU slices.

  Raises:
    InputError: for a name that is unknown, or slices that cannot be.
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
    raise InputError(f'topology {name!r} is unknown: there are {known_topologies()}')
  if slices > 1:
    raise InputError(f'--num_slices is for TPUs: {name} says how many GPUs there are')
  count = int(match.group(2))
  if count > chip.group and count % chip.group:
    raise InputError(
      f'{name} is no number of whole nodes of {chip.group}: give {count // chip.group * chip.group}'
      f' or {-(-count // chip.group) * chip.group} GPUs'
    )
  return Topology(name, chip, count, max(count // chip.group, 1))


def known_topologies() -> str:
  """For people: what `topology` takes."""
  tpus = [f'{kind}:{shapes[0]} to {kind}:{shapes[-1]}' for kind, shapes in SLICES.items()]
  gpus = [f'{name}xN' for name, chip in CHIPS.items() if chip.platform == 'gpu']
  return ', '.join([*tpus, *gpus])
