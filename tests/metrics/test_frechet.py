"""The Fréchet distance: a published implementation, its definition, and closed forms."""

import os
import pathlib

import numpy as np
import pytest

from ttm_jax.errors import InputError
from ttm_jax.metrics.frechet import frechet_distance

SHARED = pathlib.Path(os.environ.get('TTM_SHARED_DATA', '../shared/data')) / 'metrics_reference'


def of_definition(a, b, root):
  """Return the distance from means and unbiased covariances, with a given root of a matrix."""
  covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  mean = a.mean(0) - b.mean(0)
  cross = root(covariance_a, covariance_b)
  return mean @ mean + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross


def by_scipy(a, b):
  import scipy.linalg

  return np.trace(scipy.linalg.sqrtm(a @ b)).real


def by_eigenvalues(a, b):
  """Return tr sqrt(a b) from the eigenvalues of a^(1/2) b a^(1/2), clipped at 0."""
  values, vectors = np.linalg.eigh(a)
  half = vectors * np.sqrt(values.clip(0)) @ vectors.T
  return np.sqrt(np.linalg.eigvalsh(half @ b @ half).clip(0)).sum()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f'TTM_SHARED_DATA: no reference values in {SHARED}')
def test_published_implementation_gives_the_same_value():
  features = np.load(SHARED / 'frechet_features.npz')
  found = frechet_distance(features['a'], features['b'])
  assert found == pytest.approx(21.649353537297564, rel=1e-6)
  assert found == pytest.approx(frechet_distance(features['b'], features['a']), rel=1e-12)


def test_definition_with_well_conditioned_covariances():
  pytest.importorskip('scipy', reason="not installed: pip install 'ttm_jax[data]'")
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(300, 12)), rng.normal(1, 2, size=(200, 12)) @ rng.normal(size=(12, 12))
  found = frechet_distance(a, b)
  assert found == pytest.approx(of_definition(a, b, by_scipy), rel=1e-10)
  assert found == pytest.approx(of_definition(a, b, by_eigenvalues), rel=1e-10)


@pytest.mark.parametrize('count', [2, 20, 63, 64, 65])
def test_fewer_samples_than_features(count):
  rng = np.random.default_rng(count)
  a, b = rng.normal(size=(count, 64)), rng.normal(0.3, 2, size=(count, 64))
  found = frechet_distance(a, b)
  assert np.isfinite(found) and found == pytest.approx(
    of_definition(a, b, by_eigenvalues), rel=1e-6
  )


def test_closed_form_of_covariances_of_low_rank():
  """S_a and S_b share their eigenvectors, so that tr sqrt(S_a S_b) is a sum of known products."""
  rng = np.random.default_rng(0)
  count, width, rank = 10, 50, 4
  directions = np.linalg.qr(rng.normal(size=(width, rank)))[0].T
  # Columns that are orthonormal and centered: the covariance is exactly diagonal.
  columns = np.linalg.qr(np.column_stack([np.ones(count), rng.normal(size=(count, rank))]))[0][
    :, 1:
  ] * np.sqrt(count - 1)
  std_a, std_b = np.array([3.0, 2, 1, 0]), np.array([1.0, 0, 5, 2])
  mean = rng.normal(size=width)
  a, b = columns * std_a @ directions, columns[::-1] * std_b @ directions + mean
  wanted = mean @ mean + np.square(std_a - std_b).sum()
  assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-12)


def test_equal_sets_and_shifts():
  rng = np.random.default_rng(0)
  a = rng.normal(size=(30, 80))
  assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
  assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-10)
  assert frechet_distance(a, a + 0.5) == pytest.approx(80 * 0.25, rel=1e-10)
  assert frechet_distance(a, 3 * a) == pytest.approx(
    4 * (np.var(a, axis=0, ddof=1).sum() + np.square(a.mean(0)).sum()), rel=1e-10
  )


def test_features_that_have_no_distance():
  a = np.zeros((4, 3))
  for b in (a[:1], a[:, :2], a[0]):
    with pytest.raises(InputError, match='give two or more samples of one network'):
      frechet_distance(a, b)
  with pytest.raises(InputError, match='NaN or Inf'):
    frechet_distance(a, a + np.nan)
