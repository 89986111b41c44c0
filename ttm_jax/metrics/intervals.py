"""Confidence intervals of metrics by a bootstrap over clips.

A bootstrap draws clips with replacement, computes the metric of each draw, and reads the interval
off the spread of these numbers. No network runs again, since a draw repeats rows
(`metrics.base`).

Three choices differ from the plain percentile interval (Efron & Tibshirani 1993, chapter 13):

* The draws are shifted so that their mean is the value itself. For a mean this changes nothing. A
  distance between distributions (FVD, JEDi), however, grows when rows repeat: the draws lie above
  the value, and the plain interval often excludes it. Shifted, it covers the expected value at the
  given number of clips, with a probability above the nominal one where the distance is near 0.
* The interval is widened as for the Student distribution of N - 1 degrees of freedom, which matters
  below 50 clips (Hesterberg 2015, expanded percentile interval).
* All seeds of a drawn clip are kept together if they are seeds of the noise, which are nested in
  clips: noise of one clip has nothing in common with that of another. The spread between seeds is
  contained in the spread between clips, and drawing seeds as well would count it twice (Davison &
  Hinkley 1997, section 3.8). Training runs are different: a run is good or bad for all clips. With
  `runs`, half the Student interval of the mean over runs is added to each end, in quadrature. Draws
  of runs as well as clips (Agarwal et al. 2021, rliable) say too little with two or three runs.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.metrics.base import mean_of_rows
from ttm_jax.metrics.defaults import DRAWS

LEVEL = 0.95
Summarize = Callable[[np.ndarray], float]

_AT_ONCE = 1 << 22  # Drawn indices in memory at a time.


@dataclasses.dataclass(frozen=True)
class Interval:
  """A number with its confidence interval.

  Attributes:
    value: the number of the clips as they are; NaN if there is none.
    low, high: ends of the interval; NaN if there are fewer than two clips.
  """

  value: float
  low: float
  high: float

  @property
  def excludes_zero(self) -> bool:
    """Whether 0 is outside: a difference with such an interval is significant at its level."""
    return self.low > 0 or self.high < 0


def bootstrap(
  rows: np.ndarray,
  summarize: Summarize,
  draws: int = DRAWS,
  level: float = LEVEL,
  seed: int = 0,
  runs: bool = False,
) -> Interval:
  """Return the number of a metric with its confidence interval.

  Args:
    rows: float64 [S, N, D], the rows of N clips generated with S seeds. A clip with a NaN under any
      seed is dropped.
    summarize: `Metric.summarize`, rows [N, D] -> number. With several seeds, the result is the mean
      of their numbers.
    draws: number of bootstrap draws.
    level: confidence level, between 0 and 1.
    seed: seed of the draws.
    runs: whether the S seeds are those of training runs instead of noise.

  Returns:
    Value and interval; the same for the same arguments.

  Raises:
    InputError: if an argument is out of range.
  """
  return _interval([_checked(rows)], summarize, draws, level, seed, runs)


def bootstrap_difference(
  rows_a: np.ndarray,
  rows_b: np.ndarray,
  summarize: Summarize,
  draws: int = DRAWS,
  level: float = LEVEL,
  seed: int = 0,
  runs: bool = False,
) -> Interval:
  """Return the number of system A minus that of system B with its confidence interval.

  Both systems are paired by clip: each draw takes the same clips of both. What makes a clip hard
  for both systems cancels, so the interval is narrower than those of the systems suggest. Training
  runs are paired by their seed, which gives them the same data in the same order.

  Args:
    rows_a: float64 [S, N, D] of system A, as in `bootstrap`. A clip with a NaN in either system is
      dropped from both.
    rows_b: likewise of system B; the numbers of seeds may differ unless they are those of runs.
    summarize: as in `bootstrap`.
    draws: as in `bootstrap`.
    level: as in `bootstrap`.
    seed: as in `bootstrap`.
    runs: as in `bootstrap`.

  Raises:
    InputError: if the systems differ in their clips or values, or an argument is out of range.
  """
  a, b = _checked(rows_a), _checked(rows_b)
  if a.shape[1:] != b.shape[1:]:
    raise InputError(
      f'rows {a.shape[1:]} and {b.shape[1:]} of two systems cannot be paired: score both on the'
      ' same clips with the same metric'
    )
  if runs and len(a) != len(b):
    raise InputError(
      f'{len(a)} and {len(b)} training runs cannot be paired: score as many seeds of both systems'
    )
  return _interval([a, b], summarize, draws, level, seed, runs)


def table_cell(interval: Interval, bold: bool = False, digits: int = 3) -> str:
  """Return '0.718 [0.690, 0.744]' as Markdown, with the value in bold if asked; '-' for NaN."""
  if math.isnan(interval.value):
    return '-'
  value = f'{interval.value:.{digits}f}'
  if bold:
    value = f'**{value}**'
  if math.isnan(interval.low):
    return value
  return f'{value} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]'


def _checked(rows: np.ndarray) -> np.ndarray:
  rows = np.asarray(rows, np.float64)
  if rows.ndim != 3 or not rows.shape[0]:
    raise InputError(f'rows must be [seeds, clips, values], got {rows.shape}')
  return rows


def by_seed(rows: np.ndarray, summarize: Summarize, less: np.ndarray | None = None) -> list[float]:
  """Return the number of each seed, or what it differs by; their mean is what `bootstrap` returns.

  Args:
    rows: as in `bootstrap`.
    summarize: as in `bootstrap`.
    less: the rows of another system, whose numbers are subtracted.
  """
  systems = _without_gaps([_checked(each) for each in (rows, less) if each is not None])
  if not systems[0].shape[1]:
    return [math.nan] * len(systems[0])
  return _difference([np.array([summarize(x) for x in each]) for each in systems]).tolist()


def _without_gaps(systems: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Return the rows of the systems without the clips that have a NaN in one of them."""
  kept = ~np.any([np.isnan(rows).any((0, 2)) for rows in systems], axis=0)
  return [rows[:, kept] for rows in systems]


def _interval(
  systems: Sequence[np.ndarray],
  summarize: Summarize,
  draws: int,
  level: float,
  seed: int,
  runs: bool,
) -> Interval:
  """Return the interval of the first system's number, minus the second's if there are two."""
  if draws < 2 or not 0 < level < 1:
    raise InputError(f'{draws} draws at level {level}: give at least 2, and a level inside 0..1')
  systems = _without_gaps(systems)
  seeds, clips = systems[0].shape[:2]
  if not clips:
    return Interval(math.nan, math.nan, math.nan)
  value = float(_difference([np.array(_number(rows, summarize)) for rows in systems]))
  if clips < 2:
    return Interval(value, math.nan, math.nan)
  drawn = np.concatenate(
    [
      _difference([_numbers(rows, summarize, index) for rows in systems])
      for index in _indices(clips, draws, seed)
    ]
  )
  ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) - drawn.mean()
  ends = ends * _expansion(clips, level)
  if runs and seeds > 1:
    of_runs = _difference([np.array([summarize(x) for x in rows]) for rows in systems])
    ends = np.sign(ends) * np.hypot(ends, _spread_of_runs(of_runs, level))
  return Interval(value, float(value + ends[0]), float(value + ends[1]))


def _spread_of_runs(numbers: np.ndarray, level: float) -> float:
  """Return half the Student interval of the mean of S >= 2 runs with these numbers."""
  return _student(level, len(numbers) - 1) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))


def _student(level: float, freedom: int) -> float:
  """Return the two-sided quantile of Student's distribution, to 1 %.

  Closed forms below 3 degrees of freedom, then the expansion of Cornish and Fisher (Abramowitz &
  Stegun 1964, 26.7.5).
  """
  p = (1 + level) / 2
  if freedom == 1:
    return math.tan(math.pi * (p - 0.5))
  if freedom == 2:
    return (2 * p - 1) * math.sqrt(1 / (2 * p * (1 - p)))
  z = NormalDist().inv_cdf(p)
  terms = (
    (z**3 + z) / 4,
    (5 * z**5 + 16 * z**3 + 3 * z) / 96,
    (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
  )
  return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def _expansion(clips: int, level: float) -> float:
  """Return the ratio of a Student interval with unbiased variance to the bootstrap's."""
  z, freedom = NormalDist().inv_cdf((1 + level) / 2), clips - 1
  student = 1 + (z**2 + 1) / (4 * freedom)  # Quantiles: the first term of Cornish and Fisher.
  return math.sqrt(clips / freedom) * student


def _indices(clips: int, draws: int, seed: int) -> Iterator[np.ndarray]:
  """Yield int [n, clips]: the drawn clips of some draws at a time."""
  rng = np.random.default_rng(seed)
  step = max(1, _AT_ONCE // clips)
  for start in range(0, draws, step):
    yield rng.integers(0, clips, (min(step, draws - start), clips))


def _number(rows: np.ndarray, summarize: Summarize) -> float:
  return float(np.mean([summarize(of_seed) for of_seed in rows]))


def _numbers(rows: np.ndarray, summarize: Summarize, index: np.ndarray) -> np.ndarray:
  """Return the numbers float64 [n] of draws int [n, N] of rows [S, N, D]."""
  if summarize is mean_of_rows:
    return rows.mean((0, 2))[index].mean(1)  # All draws at once.
  return np.array([_number(rows[:, drawn], summarize) for drawn in index])


def _difference(numbers: Sequence[np.ndarray]) -> np.ndarray:
  return numbers[0] if len(numbers) == 1 else numbers[0] - numbers[1]
