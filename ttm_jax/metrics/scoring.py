"""Score systems by metrics: rows of every clip, numbers with intervals, and differences.

Rows are measured one batch at a time (`measure`). Numbers are then computed from the rows alone
(`summarize`), so that a comparison needs no videos.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ttm_jax.metrics.base import Metric
from ttm_jax.metrics.defaults import DRAWS
from ttm_jax.metrics.intervals import LEVEL, Interval, bootstrap, bootstrap_difference
from ttm_jax.metrics.rows_cache import digest, measure_cached
from ttm_jax.metrics.systems import Batch, Source


@dataclasses.dataclass(frozen=True)
class Measured:
  """What metrics have measured of the videos of one system.

  Attributes:
    name: the system.
    keys: the clips.
    seeds: the noise seeds.
    rows: for each metric, float64 [S, N, D] of S seeds and N clips.
  """

  name: str
  keys: tuple[str, ...]
  seeds: tuple[int, ...]
  rows: dict[str, np.ndarray]

  def of(self, keys: Sequence[str]) -> 'Measured':
    """Return what was measured of some of the clips, in this order."""
    numbers = [self.keys.index(key) for key in keys]
    rows = {name: array[:, numbers] for name, array in self.rows.items()}
    return Measured(self.name, tuple(keys), self.seeds, rows)

  def valued(self, metric: str) -> int:
    """Return the number of clips that a metric applies to, for every seed."""
    return int((~np.isnan(self.rows[metric]).any((0, 2))).sum())


@dataclasses.dataclass(frozen=True)
class Scores:
  """Numbers of systems, with intervals over clips.

  Attributes:
    metrics: the metrics.
    systems: what was measured; the first system is the one that is compared.
    numbers: for each system, the number of each metric by name.
    against: index of the system that the first one is compared with; None without comparison.
    differences: by metric, the number of the first system less that of the other.
    draws, level: of the bootstrap.
  """

  metrics: Sequence[Metric]
  systems: Sequence[Measured]
  numbers: Sequence[Mapping[str, Interval]]
  against: int | None
  differences: Mapping[str, Interval]
  draws: int = DRAWS
  level: float = LEVEL

  def few(self, system: int, metric: Metric) -> bool:
    """Return whether a number is of fewer clips than the metric needs."""
    return self.systems[system].valued(metric.name) < metric.least

  def better(self, metric: Metric) -> int | None:
    """Return the better system of the two that are compared.

    Returns:
      Its index; None without comparison, or if the interval of the difference contains 0.
    """
    difference = self.differences.get(metric.name)
    if self.against is None or difference is None or not difference.excludes_zero:
      return None
    return 0 if (difference.low > 0) == metric.higher_is_better else self.against


def measure(
  source: Source,
  metrics: Sequence[Metric],
  cache: Path,
  keep: Callable[[Batch], object] = lambda batch: None,
  progress: Callable[[int], None] = lambda videos: None,
) -> list[Measured]:
  """Measure all videos of a source.

  Args:
    source: the videos.
    metrics: the metrics.
    cache: folder of `rows_cache`.
    keep: called with each batch, to write its videos.
    progress: called with the number of videos measured since the last call; a video counts once for
      each metric.

  Returns:
    One result for each of `source.names`.

  Raises:
    InputError: a video cannot be generated, read or measured.
  """
  size = len(source.seeds), len(source.references)
  found: dict[str, dict[str, np.ndarray]] = {name: {} for name in source.names}
  for some in source.batches():
    for system, samples in some.samples.items():
      digests = [digest(sample) for sample in samples]
      for metric in metrics:
        rows = measure_cached(metric, samples, cache, progress=progress, digests=digests)
        whole = found[system].setdefault(metric.name, np.full((*size, rows.shape[1]), np.nan))
        whole[some.seed, some.first : some.first + len(samples)] = rows
    keep(some)
  keys = source.references.keys
  return [Measured(name, keys, tuple(source.seeds), found[name]) for name in source.names]


def summarize(
  metrics: Sequence[Metric],
  ours: Sequence[Measured],
  other: Measured | None = None,
  draws: int = DRAWS,
  level: float = LEVEL,
) -> Scores:
  """Return the numbers of systems, and the difference of the first from another.

  Args:
    metrics: metrics that all systems were measured by.
    ours: at least one system.
    other: the system to compare with, measured on the same clips in the same order.
    draws: draws of the bootstrap.
    level: probability that the intervals cover.
  """
  systems = [*ours, *([other] if other else [])]
  numbers = [
    {m.name: bootstrap(one.rows[m.name], m.summarize, draws, level, 0) for m in metrics}
    for one in systems
  ]
  differences = {}
  if other is not None:
    for metric in metrics:
      a, b = ours[0].rows[metric.name], other.rows[metric.name]
      made = bootstrap_difference(a, b, metric.summarize, draws, level, 0)
      differences[metric.name] = made
  against = None if other is None else len(systems) - 1
  return Scores(metrics, systems, numbers, against, differences, draws, level)
