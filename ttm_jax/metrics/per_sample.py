"""The common bases of metrics that have one value per sample and whose number is the mean."""

import abc
from collections.abc import Sequence

import numpy as np

from ttm_jax.metrics.base import Sample, mean_of_rows
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.torch_calls import exactly


class PerSample(abc.ABC):
  """A `Metric` with rows [N, 1]. Subclasses set its attributes and define `value`.

  Args:
    options: weights, device and batch size of the networks.
  """

  name: str
  title: str
  higher_is_better: bool
  protocol: str
  reads_texts = False
  least = 10

  def __init__(self, options: MetricOptions):
    self._options = options

  @abc.abstractmethod
  def value(self, sample: Sample) -> float:
    """Return the value of one sample; NaN if the metric does not apply to it."""

  def measure(self, samples: Sequence[Sample]) -> np.ndarray:
    """Return the values, float64 [N, 1]; see `base.Metric`."""
    return np.array([self.value(sample) for sample in samples], np.float64).reshape(-1, 1)

  summarize = staticmethod(mean_of_rows)


class PerSampleNetwork(PerSample):
  """A `PerSample` whose values come from a network in PyTorch."""

  def measure(self, samples: Sequence[Sample]) -> np.ndarray:
    """Return the values, float64 [N, 1], computed in full float32."""
    with exactly():
      return super().measure(samples)
