"""Peak compute, memory and link bandwidth of accelerators, for plans and for utilization.

From the vendors' data sheets; one-way link bandwidths of TPUs from the book "How to Scale Your
Model".
"""

import dataclasses

GB, GIB, TERA = 1e9, float(1 << 30), 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
  """Figures of one device.

  Attributes:
    platform: 'tpu' or 'gpu'.
    kinds: prefixes of `jax.Device.device_kind`; the longest match wins.
    flops: dense bfloat16 peak, FLOP/s.
    memory: bytes available to a program: for TPUs the limit of the compiler, for GPUs the data
      sheet.
    bandwidth: memory bandwidth, bytes/s.
    near: one-way bandwidth within a slice or node (ICI, NVLink), all links together, bytes/s.
    far: one-way bandwidth beyond the slice or node (DCN, InfiniBand), bytes/s; the device's share
      of its host's.
    group: GPUs per node; 0 for TPUs, where the whole slice is connected by ICI.
  """

  platform: str
  kinds: tuple[str, ...]
  flops: float
  memory: float
  bandwidth: float
  near: float
  far: float
  group: int = 0


CHIPS = {
  'v4': Chip('tpu', ('TPU v4',), 275 * TERA, 31.25 * GIB, 1228 * GB, 6 * 45 * GB, 6.25 * GB),
  'v5e': Chip('tpu', ('TPU v5 lite',), 197 * TERA, 15.75 * GIB, 819 * GB, 4 * 45 * GB, 6.25 * GB),
  'v5p': Chip(
    'tpu', ('TPU v5p', 'TPU v5'), 459 * TERA, 95.74 * GIB, 2765 * GB, 6 * 90 * GB, 6.25 * GB
  ),
  'v6e': Chip('tpu', ('TPU v6 lite',), 918 * TERA, 31.25 * GIB, 1640 * GB, 4 * 90 * GB, 12.5 * GB),
  'v7x': Chip('tpu', ('TPU7x',), 2307 * TERA, 192 * GB, 7370 * GB, 600 * GB, 12.5 * GB),
  'a100': Chip('gpu', ('NVIDIA A100',), 312 * TERA, 80 * GB, 2039 * GB, 300 * GB, 25 * GB, 8),
  'h100': Chip('gpu', ('NVIDIA H100',), 989 * TERA, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, 8),
  'h200': Chip('gpu', ('NVIDIA H200',), 989 * TERA, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, 8),
  'b200': Chip('gpu', ('NVIDIA B200',), 2250 * TERA, 180 * GB, 7700 * GB, 900 * GB, 50 * GB, 8),
}


def chip_of(device_kind: str) -> Chip | None:
  """Return the chip of a `jax.Device.device_kind`, or None if it is not in the table."""
  matches = {kind: chip for chip in CHIPS.values() for kind in chip.kinds}
  found = [kind for kind in matches if device_kind.startswith(kind)]
  return matches[max(found, key=len)] if found else None
