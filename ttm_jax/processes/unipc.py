"""UniPC, a multistep solver of order 2 for flow matching (Zhao et al. 2023, arXiv 2302.04867).

On the path x_s = (1 - s) x + s noise, half the logarithm of the signal-to-noise ratio is
l = log((1 - s) / s). From level s to level t, with h = l_t - l_s, r = (l_before - l_s) / h and the
predicted data m of the levels, the solver takes

    x_t = (t / s) x_s - (1 - t) B (m_s + a / r (m_before - m_s) + c (m_t - m_s)),   B = exp(-h) - 1

(B is the paper's B2; equations 3 and 8 with predicted data, appendix A). The predictor has c = 0
and a = 1/2. Then the network is evaluated at x_t, and the corrector repeats the step with m_t. So
there is one evaluation a step. The first and last steps have order 1: a = 0, and the corrector has
c = 1/2.

All coefficients follow from the noise levels. They are float64 on the host.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def sample(
  predict: Callable[[Array, Array], Array],
  to_data: Callable[[Array, Array, Array], Array],
  noise: Array,
  sigmas: np.ndarray,
) -> Array:
  """Integrate from noise to data; the last step has no corrector, since it ends at the data.

  As in Wan's own pipelines, the network takes whole numbers as times: 1000 sigma, rounded down.

  Args:
    predict: maps (x_t [B, ...], t float32 [B]) to the network's prediction [B, ...], where t = 1 -
      sigma, rounded as above.
    to_data: maps (prediction, x_t, sigma) to the data that the prediction implies, all [B, ...].
    noise: standard normal, float32 [B, ...].
    sigmas: noise levels, float [steps + 1], decreasing from below 1 to 0.

  Returns:
    Data latents, float32 [B, ...].
  """
  levels = sigmas.astype(np.float32)
  times = 1 - np.floor(1000 * sigmas[:-1]) / 1000
  columns = (levels[:-1], times, *coefficients(levels))

  def step(carry, values):
    x, last, before, here = carry
    sigma, t, correct, ahead = values
    new = to_data(predict(x, jnp.full(x.shape[:1], t)), x, sigma)
    x = correct[0] * last + correct[1] * before + correct[2] * here + correct[3] * new
    return (ahead[0] * x + ahead[1] * here + ahead[2] * new, x, here, new), None

  zeros = jnp.zeros_like(noise)
  rows = tuple(jnp.asarray(column, jnp.float32) for column in columns)
  return jax.lax.scan(step, (noise, noise, zeros, zeros), rows)[0][0]


def coefficients(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the coefficients of the corrector and of the predictor at each level but the last.

  Args:
    sigmas: noise levels, float [steps + 1], decreasing from below 1 to 0.

  Returns:
    Float64 [steps, 4], of the corrected sample one level before and the predicted data two levels
    before, one level before, and here; and float64 [steps, 3], of the corrected sample here and the
    predicted data one level before and here.
  """
  sigmas = sigmas.astype(np.float64)
  steps = len(sigmas) - 1
  levels = np.log((1 - sigmas[:-1]) / sigmas[:-1])
  correct, ahead = np.zeros((steps, 4)), np.zeros((steps, 3))
  correct[0, 0] = 1  # There is nothing to correct at the first level.
  for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
    b = (1 - s) * t / ((1 - t) * s) - 1
    weight = -(1 - t) * b
    second = 0 < i < steps - 1
    ratio = (levels[i - 1] - levels[i]) / (levels[i + 1] - levels[i]) if second else np.inf
    ahead[i] = t / s, weight * 0.5 / ratio, weight * (1 - 0.5 / ratio)
    if i + 1 < steps:
      a, c = _corrector(levels[i + 1] - levels[i], b, ratio) if second else (0.0, 0.5)
      correct[i + 1] = t / s, weight * a / ratio, weight * (1 - a / ratio - c), weight * c
  return correct, ahead


def _corrector(h: float, b: float, ratio: float) -> tuple[float, float]:
  """Return a and c of the corrector of order 2: a + c and a r + c match the expansion in h."""
  first = b / -h - 1
  matched = np.array([first, 2 * (first / -h - 0.5)]) / b
  a, c = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], matched)
  return float(a), float(c)
