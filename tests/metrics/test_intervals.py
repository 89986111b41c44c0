"""Bootstrap intervals: coverage of the truth, pairing, seeds, missing rows, and formatting."""

import numpy as np
import pytest

from ttm_jax.errors import InputError
from ttm_jax.metrics.base import mean_of_rows
from ttm_jax.metrics.frechet import frechet_distance
from ttm_jax.metrics.intervals import (
  Interval,
  _student,
  bootstrap,
  bootstrap_difference,
  by_seed,
  table_cell,
)


def generic_mean(rows):
  """Return the same as `mean_of_rows`, without its vectorized bootstrap."""
  return float(rows.mean())


def coverage(interval_of, truth, repeats=1000):
  found = [interval_of(np.random.default_rng(number)) for number in range(repeats)]
  return np.mean([one.low <= truth <= one.high for one in found])


def seed_of(rng):
  return int(rng.integers(2**31))


DISTRIBUTIONS = {
  'normal': (lambda rng, shape: rng.normal(3, 2, shape), 3.0),
  'skewed': (lambda rng, shape: rng.beta(8, 2, shape), 0.8),
  'two values': (lambda rng, shape: (rng.random(shape) < 0.3) * 1.0, 0.3),
}


@pytest.mark.parametrize('name', DISTRIBUTIONS)
def test_interval_covers_the_mean_in_95_of_100_cases(name):
  draw, truth = DISTRIBUTIONS[name]
  covered = coverage(
    lambda rng: bootstrap(draw(rng, (1, 100, 1)), mean_of_rows, seed=seed_of(rng)), truth
  )
  assert 0.93 <= covered <= 0.97


def test_few_clips_are_covered_too():
  covered = coverage(
    lambda rng: bootstrap(rng.normal(3, 2, (1, 12, 1)), mean_of_rows, seed=seed_of(rng)), 3.0
  )
  assert 0.93 <= covered <= 0.97


def test_seeds_are_not_counted_twice():
  """Most of the spread is between seeds, and still the interval has the right width."""

  def rows(rng):
    return 1 + 0.3 * rng.normal(size=(1, 100, 1)) + rng.normal(size=(3, 100, 1))

  covered = coverage(lambda rng: bootstrap(rows(rng), mean_of_rows, 400, seed=seed_of(rng)), 1.0)
  assert 0.93 <= covered <= 0.97


def test_difference_of_two_systems_is_paired():
  def systems(rng):
    hard = 5 * rng.normal(size=(1, 80, 1))  # Of the clip, for both systems.
    return hard + 0.5 + rng.normal(size=hard.shape), hard + rng.normal(size=hard.shape)

  covered = coverage(
    lambda rng: bootstrap_difference(*systems(rng), mean_of_rows, 400, seed=seed_of(rng)), 0.5
  )
  assert 0.93 <= covered <= 0.97
  a, b = systems(np.random.default_rng(0))
  paired, alone = bootstrap_difference(a, b, mean_of_rows), bootstrap(a, mean_of_rows)
  assert paired.value == pytest.approx(a.mean() - b.mean(), abs=1e-12)
  assert paired.high - paired.low < 0.4 * (alone.high - alone.low)
  back = bootstrap_difference(b, a, mean_of_rows)
  assert [-back.high, -back.low] == pytest.approx([paired.low, paired.high], abs=1e-12)


def test_plain_percentiles_would_miss_a_distance_between_distributions():
  """Rows of a draw repeat, which enlarges the distance; the interval is shifted back."""
  count, width, inside, plain = 30, 16, [], []

  def rows(rng):
    return rng.normal(size=(1, count, 2 * width)) + np.repeat([0.0, 0.4], width)

  def distance(rows):
    return frechet_distance(rows[:, :width], rows[:, width:])

  truth = np.mean([distance(rows(np.random.default_rng(10**6 + n))[0]) for n in range(400)])
  for number in range(40):
    rng = np.random.default_rng(number)
    drawn = rows(rng)
    found = bootstrap(drawn, distance, draws=100)
    inside.append(found.low <= truth <= found.high)
    indices = rng.integers(0, count, (100, count))
    low, high = np.quantile([distance(drawn[0, index]) for index in indices], [0.025, 0.975])
    plain.append(low <= truth <= high)
  assert np.mean(inside) >= 0.93 and np.mean(plain) < 0.2


def test_generic_functions_take_the_same_draws():
  rows = np.random.default_rng(0).normal(size=(2, 30, 1))
  fast, slow = (bootstrap(rows, function, draws=200) for function in (mean_of_rows, generic_mean))
  assert [fast.value, fast.low, fast.high] == pytest.approx([slow.value, slow.low, slow.high])
  median = bootstrap(rows, lambda r: float(np.median(r)), draws=200)
  assert median.value == pytest.approx(np.mean([np.median(one) for one in rows]))
  assert median.low < median.value < median.high
  assert bootstrap(rows, mean_of_rows, seed=1) != bootstrap(rows, mean_of_rows)
  wide = bootstrap(rows, mean_of_rows, level=0.99)
  assert wide.low < bootstrap(rows, mean_of_rows).low


def test_clips_that_do_not_apply_are_dropped():
  rows = np.random.default_rng(0).normal(size=(2, 20, 3))
  holed = rows.copy()
  holed[0, 4, 1] = holed[1, 7, 0] = np.nan
  kept = np.delete(rows, [4, 7], axis=1)
  assert bootstrap(holed, generic_mean, 50) == bootstrap(kept, generic_mean, 50)
  assert bootstrap_difference(holed, 2 * rows, generic_mean, 50) == bootstrap_difference(
    kept, 2 * kept, generic_mean, 50
  )
  nothing = bootstrap(np.full((1, 3, 1), np.nan), mean_of_rows)
  assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
  one = bootstrap(np.full((1, 1, 1), 0.5), mean_of_rows)
  assert one.value == 0.5 and np.isnan([one.low, one.high]).all()


def test_numbers_of_seeds_are_of_the_clips_that_apply_and_have_the_mean_of_the_value():
  rows = np.random.default_rng(0).normal(size=(3, 20, 2))
  holed, other = rows.copy(), 2 * rows
  holed[0, 4, 1] = other[1, 7, 0] = np.nan
  kept = np.delete(rows, [4, 7], axis=1)
  assert by_seed(holed, mean_of_rows, less=other) == pytest.approx(-kept.mean((1, 2)))
  value = bootstrap(holed, generic_mean, 50).value
  assert np.mean(by_seed(holed, generic_mean)) == pytest.approx(value)
  assert np.isnan(by_seed(np.full((2, 3, 1), np.nan), mean_of_rows)).tolist() == [True, True]


def test_cells_of_tables():
  found = Interval(0.718, 0.68951, 0.7441)
  assert table_cell(found) == '0.718 [0.690, 0.744]'
  assert table_cell(found, bold=True) == '**0.718** [0.690, 0.744]'
  assert table_cell(found, digits=1) == '0.7 [0.7, 0.7]'
  nan = float('nan')
  assert table_cell(Interval(nan, nan, nan)) == '-' and table_cell(Interval(2, nan, nan)) == '2.000'
  assert Interval(1, 0.5, 2).excludes_zero and not Interval(1, -0.5, 2).excludes_zero


def test_what_cannot_be_drawn():
  rows = np.zeros((1, 4, 2))
  with pytest.raises(InputError, match=r'must be \[seeds, clips, values\], got \(4, 2\)'):
    bootstrap(rows[0], mean_of_rows)
  with pytest.raises(InputError, match='cannot be paired'):
    bootstrap_difference(rows, rows[:, 1:], mean_of_rows)
  with pytest.raises(InputError, match='at least 2'):
    bootstrap(rows, mean_of_rows, draws=1)
  with pytest.raises(InputError, match=r'inside 0\.\.1'):
    bootstrap(rows, mean_of_rows, level=95)


@pytest.mark.parametrize('freedom, wanted', [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262)])
def test_quantiles_of_student(freedom, wanted):
  assert _student(0.95, freedom) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize('runs', [2, 3, 5])
def test_runs_that_differ_are_covered(runs):
  """Runs have an effect on all of their clips, clips one in all runs, and both one of their own."""
  rng, inside, narrow = np.random.default_rng(3), 0, 0
  for case in range(200):
    rows = 0.7 + 0.1 * rng.normal(size=(runs, 1, 1)) + 0.5 * rng.normal(size=(1, 60, 1))
    rows = rows + 0.3 * rng.normal(size=(runs, 60, 1))
    found = bootstrap(rows, mean_of_rows, draws=200, seed=case, runs=True)
    inside += found.low <= 0.7 <= found.high
    found = bootstrap(rows, mean_of_rows, draws=200, seed=case)
    narrow += found.low <= 0.7 <= found.high
  assert inside / 200 >= 0.93
  assert narrow < inside


def test_a_difference_of_runs_is_paired_by_seed():
  rng = np.random.default_rng(4)
  a = rng.normal(size=(3, 40, 1)) + 10 * rng.normal(size=(3, 1, 1))
  b = a + 1 + 0.01 * rng.normal(size=a.shape)
  found = bootstrap_difference(b, a, mean_of_rows, runs=True)
  assert 0.98 < found.low < 1 < found.high < 1.02
  with pytest.raises(InputError, match='3 and 2 training runs cannot be paired'):
    bootstrap_difference(a, a[:2], mean_of_rows, runs=True)
