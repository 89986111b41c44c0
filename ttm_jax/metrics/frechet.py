"""The Fréchet distance between two sets of features, as in FID and FVD.

It is the 2-Wasserstein distance, squared, between Gaussians of the means and covariances of both
sets (Dowson & Landau 1982):

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

The covariances are unbiased, with N - 1 in the denominator. tr (S_a S_b)^(1/2) is the sum of the
square roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which are the squared singular values of
S_a^(1/2) S_b^(1/2). With S = X^T X / (N - 1) of centered features X, these are the singular values
of X_a X_b^T divided by the roots of both N - 1. No root of a matrix is needed, and singular
covariances (N below the number of features) lose no accuracy.
"""

import numpy as np

from ttm_jax.errors import InputError


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Return the Fréchet distance of two sets of features.

  Args:
    a, b: float [N, D] and [M, D], at least two rows each.

  Returns:
    The squared distance, not negative.

  Raises:
    InputError: if a set has fewer than two rows, the widths differ, or a value is not finite.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
    raise InputError(
      f'features {a.shape} and {b.shape} have no Fréchet distance: give two or more samples of one'
      ' network'
    )
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise InputError('features contain NaN or Inf; check the weights of the network')
  means = a.mean(0) - b.mean(0)
  a, b = _deviations(a), _deviations(b)
  traces = np.square(a).sum() + np.square(b).sum()
  cross = np.linalg.svd(_core(a) @ _core(b).T, compute_uv=False).sum()
  return float(max(0.0, means @ means + traces - 2 * cross))


def _deviations(features: np.ndarray) -> np.ndarray:
  """Return X [N, D] with X^T X equal to the covariance."""
  return (features - features.mean(0)) / np.sqrt(len(features) - 1)


def _core(deviations: np.ndarray) -> np.ndarray:
  """Return a matrix [min(N, D), D] with the same X^T X, for a small product."""
  rows, columns = deviations.shape
  return np.asarray(np.linalg.qr(deviations, mode='r')) if rows > columns else deviations
