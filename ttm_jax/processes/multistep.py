"""Multistep solvers of order 2: UniPC and DPM-Solver++ (2M).

Sources: Zhao et al. 2023 (arXiv 2302.04867) and Lu et al. 2022 (arXiv 2211.01095).

A process mixes data and noise, x_s = alpha_s x + sigma_s noise. Half the logarithm of its
signal-to-noise ratio is l = log(alpha / sigma). From level s to level t, with h = l_t - l_s,
r = (l_before - l_s) / h and the predicted data m of the levels, the solvers take

    x_t = (sigma_t / sigma_s) x_s
          - alpha_t B (m_s + a / r (m_before - m_s) + c (m_t - m_s)),   B = exp(-h) - 1

(B is B2 in the UniPC paper; its equations 3 and 8 with predicted data, appendix A). The predictor
has c = 0 and a = 1/2. DPM-Solver++ is the predictor alone. In UniPC the network is then evaluated
at x_t, and the corrector repeats the step with m_t. Both evaluate the network once a step.

The first and last steps have order 1: a = 0, and the corrector has c = 1/2. So has a step whose
level before is pure noise, where l is minus infinity.

All coefficients follow from the noise levels. They are float64 on the host.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax.processes.coefficients import corrector, predictor
from ttm_jax.processes.solver import Row, Solver, State

Array = jax.Array

UNIPC, DPMPP = 'unipc', 'dpmpp'
SOLVERS = UNIPC, DPMPP


def solver(
  name: str,
  to_data: Callable[[Array, Array, Array, Array], Array],
  signals: np.ndarray,
  spreads: np.ndarray,
  times: np.ndarray,
) -> Solver:
  """Return a multistep solver.

  Args:
    name: an element of SOLVERS.
    to_data: maps (prediction [B, ...], x_t [B, ...], signal [], spread []) to the data that the
      network's prediction implies, [B, ...].
    signals: alpha of each level, float [steps + 1], not decreasing, to the data.
    spreads: sigma of each level, float [steps + 1], decreasing.
    times: time of the process at each level but the last, float [steps].
  """
  ahead = predictor(signals, spreads)
  if name == DPMPP:
    return _predicting(to_data, Row(times, signals[:-1], spreads[:-1], ahead))
  numbers = corrector(signals, spreads), ahead

  def begin(noise: Array) -> State:
    # The sample here, that of the level before, and the data predicted two and one levels before.
    return noise, noise, jnp.zeros_like(noise), jnp.zeros_like(noise)

  def update(state: State, prediction: Array, row: Row) -> State:
    x, last, before, here = state
    back, on = row.numbers
    new = to_data(prediction, x, row.signal, row.spread)
    x = back[0] * last + back[1] * before + back[2] * here + back[3] * new
    return on[0] * x + on[1] * here + on[2] * new, x, here, new

  return Solver(Row(times, signals[:-1], spreads[:-1], numbers), begin, update)


def _predicting(to_data: Callable[[Array, Array, Array, Array], Array], rows: Row) -> Solver:
  """Return the solver without corrector."""

  def begin(noise: Array) -> State:
    return noise, jnp.zeros_like(noise)

  def update(state: State, prediction: Array, row: Row) -> State:
    (x, before), on = state, row.numbers
    new = to_data(prediction, x, row.signal, row.spread)
    return on[0] * x + on[1] * before + on[2] * new, new

  return Solver(rows, begin, update)
