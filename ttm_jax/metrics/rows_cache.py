"""Keep the rows that a metric has measured."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ttm_jax.metrics.base import Metric, Sample


def measure_cached(
  metric: Metric,
  samples: Sequence[Sample],
  folder: Path | None,
  batch: int = 8,
  progress: Callable[[int], None] = lambda samples: None,
) -> np.ndarray:
  """Return the rows of samples, float64 [N, D]."""
  rows = []
  for first in range(0, len(samples), batch):
    some = samples[first : first + batch]
    rows.append(metric.measure(some))
    progress(len(some))
  return np.concatenate(rows)
