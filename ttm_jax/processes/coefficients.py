"""Coefficients of the multistep solvers (see `processes.multistep`); depends on NumPy only.

Levels are given by their share of data and of noise: x_s = signal x + spread noise.
"""

import numpy as np


def predictor(signals: np.ndarray, spreads: np.ndarray) -> np.ndarray:
  """Return the coefficients of the step from each level to the next.

  Args:
    signals: float [steps + 1], from 0 or more to the data.
    spreads: float [steps + 1], decreasing, to 0 or more.

  Returns:
    Float64 [steps, 3], of the sample here and of the data predicted one level before and here.
  """
  found = np.zeros((len(signals) - 1, 3))
  for i, (keep, weight, _, ratio) in enumerate(_steps(signals, spreads)):
    found[i] = keep, weight * 0.5 / ratio, weight * (1 - 0.5 / ratio)
  return found


def corrector(signals: np.ndarray, spreads: np.ndarray) -> np.ndarray:
  """Return the coefficients that repeat the step to each level with the data predicted there.

  Args:
    signals: see `predictor`.
    spreads: see `predictor`.

  Returns:
    Float64 [steps, 4], of the corrected sample one level before and of the data predicted two
    levels before, one level before, and here.
  """
  found = np.zeros((len(signals) - 1, 4))
  found[0, 0] = 1  # There is nothing to correct at the first level.
  # The last step ends at the data, and has no corrector.
  for i, (keep, weight, h, ratio) in enumerate(_steps(signals, spreads)[:-1]):
    a, c = _matched(h, ratio) if np.isfinite(ratio) else (0.0, 0.5)
    found[i + 1] = keep, weight * a / ratio, weight * (1 - a / ratio - c), weight * c
  return found


def _steps(signals: np.ndarray, spreads: np.ndarray) -> list[tuple[float, float, float, float]]:
  """Return sigma_t / sigma_s, -alpha_t B, h and r of each step; r is infinite for order 1."""
  alphas, sigmas = signals.astype(np.float64), spreads.astype(np.float64)
  with np.errstate(divide='ignore'):
    levels = np.log(alphas) - np.log(sigmas)
  found, last = [], len(levels) - 2
  for i in range(last + 1):
    keep = sigmas[i + 1] / sigmas[i]
    h = levels[i + 1] - levels[i]
    ratio = (levels[i - 1] - levels[i]) / h if 0 < i < last else np.inf
    found.append((keep, alphas[i + 1] - alphas[i] * keep, h, ratio))
  return found


def _matched(h: float, ratio: float) -> tuple[float, float]:
  """Return a and c of the corrector of order 2: a + c and a r + c match the expansion in h."""
  b = np.expm1(-h)
  first = b / -h - 1
  matched = np.array([first, 2 * (first / -h - 0.5)]) / b
  a, c = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], matched)
  return float(a), float(c)
