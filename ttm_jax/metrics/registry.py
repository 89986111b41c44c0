"""The metrics by name."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ttm_jax.errors import InputError, nearest
from ttm_jax.metrics import video
from ttm_jax.metrics.base import Metric, Sample, mean_of_rows


@dataclasses.dataclass(frozen=True)
class MetricOptions:
  """How metrics compute, and where their weights are."""

  device: str = 'auto'
  batch: int = 8
  offline: bool = False
  weights: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Psnr:
  name: str = 'psnr'
  title: str = 'PSNR (dB)'
  higher_is_better: bool = True
  protocol: str = 'of the mean squared error over the whole clip'
  least: int = 1

  def measure(self, samples: Sequence[Sample]) -> np.ndarray:
    return np.array([[video.psnr(s.clip.video, s.video)] for s in samples])

  def summarize(self, rows: np.ndarray) -> float:
    return mean_of_rows(rows)


@dataclasses.dataclass(frozen=True)
class _Ssim:
  name: str = 'ssim'
  title: str = 'SSIM'
  higher_is_better: bool = True
  protocol: str = 'windows of 11x11 pixels, mean over frames'
  least: int = 1

  def measure(self, samples: Sequence[Sample]) -> np.ndarray:
    return np.array([[video.ssim(s.clip.video, s.video)] for s in samples])

  def summarize(self, rows: np.ndarray) -> float:
    return mean_of_rows(rows)


_METRICS: dict[str, type] = {'psnr': _Psnr, 'ssim': _Ssim}
DEFAULT = tuple(_METRICS)


def make(names: Sequence[str], options: MetricOptions) -> list[Metric]:
  """Return metrics by name.

  Raises:
    InputError: a name is unknown.
  """
  for name in names:
    if name not in _METRICS:
      raise InputError(f'unknown metric "{name}"{nearest(name, _METRICS)}; there are {_METRICS}')
  return [_METRICS[name]() for name in names]
