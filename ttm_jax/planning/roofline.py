"""How long a step takes at least, and what keeps it from being shorter."""

import dataclasses

from ttm_jax.parallel.chips import Chip
from ttm_jax.planning.costs import Costs

# What each bound is called in tables.
BOUNDS = {
  'compute': 'matrix units',
  'memory': 'memory bandwidth',
  'near': 'network within the slice',
  'far': 'network between slices',
}


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds that one step keeps each part of the device busy, at its peak.

  Attributes:
    compute: the matrix units.
    memory: the path to the device's memory.
    near, far: the networks within and between slices.
  """

  compute: float
  memory: float
  near: float
  far: float

  @property
  def bound(self) -> str:
    """The part that is busy longest."""
    return max(BOUNDS, key=lambda name: getattr(self, name))

  @property
  def least(self) -> float:
    """The step where everything goes on at once."""
    return max(self.compute, self.memory, self.near, self.far)

  @property
  def most(self) -> float:
    """The step where one waits for the other, each at its peak."""
    return max(self.compute, self.memory) + self.near + self.far


def times(costs: Costs, chip: Chip) -> Times:
  return Times(
    compute=costs.flops / chip.flops,
    memory=costs.traffic / chip.bandwidth,
    near=costs.near / chip.near,
    far=costs.far / chip.far,
  )
