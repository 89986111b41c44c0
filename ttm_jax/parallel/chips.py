"""What one accelerator computes, stores and sends: for plans and for utilization.

From the data sheets; for TPUs also from the book "How to Scale Your Model" (links, one way).
"""

import dataclasses

GB, GIB, TERA = 1e9, float(1 << 30), 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device.

  Attributes:
    platform: 'tpu' or 'gpu'.
    kinds: what `jax.Device.device_kind` starts with; the longest match counts.
    flops: dense bfloat16 peak, FLOP/s.
    memory: bytes that a program may use: what the TPU compiler grants, the data sheet of a GPU.
    bandwidth: of its memory, bytes/s.
    near: bytes/s that it sends within its slice or node (ICI, NVLink): all links, one way.
    far: bytes/s that it sends beyond its slice or node (DCN, InfiniBand), its share of the host's.
    group: GPUs of a node; 0 for TPUs, whose whole slice is near.
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
