"""Where the networks of metrics come from, and the device that they run on."""

import dataclasses
import functools
from collections.abc import Mapping

from ttm_jax.metrics.networks import Networks


@dataclasses.dataclass(frozen=True)
class MetricOptions:
  """Weights, device and batch size of the networks of metrics.

  Attributes:
    device: a PyTorch device; `auto` is a GPU if available, else the CPU.
    batch: frames, crops or clips per call of a network.
    offline: do not download weights; read the hub's local cache.
    weights: hub id, file or folder, by the name of a network (`networks.NETWORKS`), such as `clip`,
      or of a metric, which then differs from the others that use the network.
  """

  device: str = 'auto'
  batch: int = 8
  offline: bool = False
  weights: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def networks(self) -> Networks:
    """The networks, which all metrics made from these options share."""
    return Networks(self.device, self.batch, self.offline, self.weights)
