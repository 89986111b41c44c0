"""Maximum mean discrepancy (MMD) between two sets of features, with a polynomial kernel.

The squared MMD is E k(x, x') + E k(y, y') - 2 E k(x, y) of independent x, x' and y, y' (Gretton et
al. 2012). With k(x, y) = (x . y / D)^2, it is |E x x^T - E y y^T|^2 / D^2 in the Frobenius norm: it
compares the second moments of the features.
"""

import numpy as np

from ttm_jax.errors import InputError


def polynomial_mmd(
  x: np.ndarray, y: np.ndarray, degree: int = 2, offset: float = 0.0, unbiased: bool = True
) -> float:
  """Return the squared MMD with the kernel (x . y / D + offset)^degree.

  Args:
    x, y: float [N, D] and [M, D], at least two rows each.
    degree, offset: of the kernel.
    unbiased: leave out the pairs of a row with itself, so that the expected value does not depend
      on the number of rows (Gretton et al. 2012, lemma 6). The result may be negative then.

  Raises:
    InputError: if a set has fewer than two rows, the widths differ, or a value is not finite.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
    raise InputError(
      f'features {x.shape} and {y.shape} have no MMD: give two or more samples of one network'
    )
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    raise InputError('features contain NaN or Inf; check the weights of the network')

  def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + offset) ** degree

  def within(a: np.ndarray) -> float:
    values, count = kernel(a, a), len(a)
    if not unbiased:
      return values.mean()
    return (values.sum() - np.trace(values)) / (count * (count - 1))

  return float(within(x) + within(y) - 2 * kernel(x, y).mean())
