"""Bootstrap intervals of the number of a metric, over clips."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
  """A number with its bootstrap interval.

  Attributes:
    value: the number of all rows.
    low, high: the percentiles of the numbers of drawn rows.
  """

  value: float
  low: float
  high: float

  @property
  def excludes_zero(self) -> bool:
    """Whether 0 is outside."""
    return self.low > 0 or self.high < 0


Summarize = Callable[[np.ndarray], float]


def bootstrap(
  rows: np.ndarray, summarize: Summarize, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
  """Return the number of float64 rows [S, N, D] of S seeds and N clips, with its interval.

  Clips are drawn with replacement, each with all of its seeds. Rows with NaN are left out.
  """
  drawn = np.random.default_rng(seed).integers(rows.shape[1], size=(draws, rows.shape[1]))
  return _interval(_number(rows, summarize), [_number(rows[:, i], summarize) for i in drawn], level)


def bootstrap_difference(
  rows_a: np.ndarray,
  rows_b: np.ndarray,
  summarize: Summarize,
  draws: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> Interval:
  """Return the number of rows a less that of rows b of the same clips, drawn together."""
  drawn = np.random.default_rng(seed).integers(rows_a.shape[1], size=(draws, rows_a.shape[1]))

  def difference(a: np.ndarray, b: np.ndarray) -> float:
    return _number(a, summarize) - _number(b, summarize)

  values = [difference(rows_a[:, i], rows_b[:, i]) for i in drawn]
  return _interval(difference(rows_a, rows_b), values, level)


def _number(rows: np.ndarray, summarize: Summarize) -> float:
  flat = rows.reshape(-1, rows.shape[-1])
  return summarize(flat[~np.isnan(flat).any(1)])


def _interval(value: float, drawn: list[float], level: float) -> Interval:
  known = [x for x in drawn if not np.isnan(x)] or [float('nan')]
  low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
  return Interval(value, float(low), float(high))
