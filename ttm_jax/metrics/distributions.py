"""The common base of metrics that compare the features of all generated and all real videos."""

import abc
from collections.abc import Sequence

import numpy as np

from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.frames import check_frames
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.torch_calls import exactly


class DistributionMetric(abc.ABC):
  """A `Metric` whose row is the features of the generated video and then those of the clip.

  Subclasses set its attributes and define `features` and `distance`.

  Args:
    options: weights, device and batch size of the networks.
  """

  name: str
  title: str
  higher_is_better = False
  protocol: str
  reads_texts = False
  least: int
  least_frames = 1

  def __init__(self, options: MetricOptions):
    self._options = options

  @abc.abstractmethod
  def features(self, videos: np.ndarray) -> np.ndarray:
    """Return the features [B, D] of videos uint8 [B, T, H, W, 3]."""

  @abc.abstractmethod
  def distance(self, generated: np.ndarray, real: np.ndarray) -> float:
    """Return the distance of two sets of features float64 [N, D], N at least 2."""

  def measure(self, samples: Sequence[Sample]) -> np.ndarray:
    """Return float64 [N, 2 D], computed in full float32; see `base.Metric`."""
    for sample in samples:
      check_frames(sample, self.name, self.least_frames)
    with exactly():
      rows = [self.features(np.stack([one.video, one.clip.video])).ravel() for one in samples]
    return np.array(rows, np.float64).reshape(len(samples), -1 if rows else 0)

  def summarize(self, rows: np.ndarray) -> float:
    """Return the distance; NaN for fewer than two rows."""
    if len(rows) < 2:
      return float('nan')
    generated, real = np.split(rows, 2, axis=1)
    return self.distance(generated, real)
