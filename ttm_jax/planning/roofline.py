"""Bound the time of a train step by a roofline model."""

import dataclasses

from ttm_jax.parallel.chips import Chip
from ttm_jax.planning.costs import Costs

# Titles of the bounds in tables.
BOUNDS = {
  'compute': 'FLOPs',
  'memory': 'HBM bandwidth',
  'near': 'network within slice',
  'far': 'network between slices',
}


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds that one step takes on each resource of a device, at peak rate.

  Attributes:
    compute: time of the matrix units.
    memory: time of the device memory traffic.
    near: time of the communication within a slice.
    far: time of the communication between slices.
  """

  compute: float
  memory: float
  near: float
  far: float

  @property
  def bound(self) -> str:
    """The resource that takes longest; a key of BOUNDS."""
    return max(BOUNDS, key=lambda name: getattr(self, name))

  @property
  def least(self) -> float:
    """Step time in seconds if all resources overlap perfectly."""
    return max(self.compute, self.memory, self.near, self.far)

  @property
  def most(self) -> float:
    """Step time in seconds if communication does not overlap with computation."""
    return max(self.compute, self.memory) + self.near + self.far


def times(costs: Costs, chip: Chip) -> Times:
  """Return the time that the costs of one step take on each resource of a chip."""
  return Times(
    compute=costs.flops / chip.flops,
    memory=costs.traffic / chip.bandwidth,
    near=costs.near / chip.near,
    far=costs.far / chip.far,
  )
