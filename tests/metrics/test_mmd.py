"""The MMD with a polynomial kernel: loops, closed forms and the values of the authors' script."""

import numpy as np
import pytest

from ttm_jax.errors import InputError
from ttm_jax.metrics.mmd import polynomial_mmd


def by_loops(x, y, degree, offset, unbiased):
  def mean(a, b, same):
    values = [
      (sum(p * q for p, q in zip(u, v, strict=True)) / len(u) + offset) ** degree
      for i, u in enumerate(a)
      for j, v in enumerate(b)
      if not (same and unbiased and i == j)
    ]
    return sum(values) / len(values)

  return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.mark.parametrize('unbiased', [False, True])
@pytest.mark.parametrize('degree, offset', [(2, 0.0), (3, 1.0)])
def test_loops(degree, offset, unbiased):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(7, 4)), rng.normal(1, 2, size=(9, 4))
  wanted = by_loops(x.tolist(), y.tolist(), degree, offset, unbiased)
  assert polynomial_mmd(x, y, degree, offset, unbiased) == pytest.approx(wanted, rel=1e-12)


def test_values_printed_by_the_script_of_jedi():
  a = np.arange(1, 10).reshape(3, 3)
  b = np.array([[7, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])
  found = polynomial_mmd(a, b, 2, 0, unbiased=False)
  assert found == pytest.approx(270.7, abs=0.05) and 9 * found == pytest.approx(2436.5, abs=0.05)


def test_degree_two_compares_second_moments():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(20, 6)), rng.normal(0.5, 1.5, size=(30, 6))
  moments = x.T @ x / 20 - y.T @ y / 30
  wanted = np.square(moments).sum() / 36
  assert polynomial_mmd(x, y, unbiased=False) == pytest.approx(wanted, rel=1e-12)


def test_unbiased_estimate_has_the_mean_of_the_population():
  """x is N(0, I) and y is N(0, 4 I) in 3 dimensions: |I - 4 I|^2 / 9 = 3."""
  rng = np.random.default_rng(0)
  draws = [
    polynomial_mmd(rng.normal(size=(10, 3)), 2 * rng.normal(size=(10, 3))) for _ in range(4000)
  ]
  assert np.mean(draws) == pytest.approx(3, abs=4 * np.std(draws) / 4000**0.5)
  same = [polynomial_mmd(rng.normal(size=(10, 3)), rng.normal(size=(10, 3))) for _ in range(2000)]
  assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / 2000**0.5) and min(same) < 0


def test_features_that_have_no_distance():
  x = np.zeros((4, 3))
  for y in (x[:1], x[:, :2]):
    with pytest.raises(InputError, match='have no MMD'):
      polynomial_mmd(x, y)
  with pytest.raises(InputError, match='NaN or Inf'):
    polynomial_mmd(x, x + np.inf)
