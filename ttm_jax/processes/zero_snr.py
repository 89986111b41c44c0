"""Discrete diffusion with zero terminal signal-to-noise ratio and v-prediction (the paper's U-Net).

The noise schedules of Stable Diffusion and AnimateDiff leave some signal in their noisiest step. A
network learns to use it, but sampling starts from pure noise, which has none. Three changes correct
this (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed",
arXiv 2305.08891):

- The schedule is rescaled to a terminal signal-to-noise ratio of zero.
- The network predicts the velocity v, which is defined there. It can also predict the data, from
  which v follows.
- Sampling starts at the last training step.

As in all processes of this package, time runs from t = 0 (noise) to t = 1 (data): step n of N is
t = 1 - (n + 1) / N. Tables are float64 on the host; in half precision the last steps would
collapse.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax.processes import multistep
from ttm_jax.processes.solver import Row, Solver, State, integrate

Array = jax.Array

SCHEDULES = ('linear', 'scaled_linear')
PREDICTIONS = ('v', 'data')
SOLVERS = ('ddim', *multistep.SOLVERS)


@dataclasses.dataclass(frozen=True)
class ZeroSNRDiffusion:
  """The process `x_n = sqrt(abar_n) x + sqrt(1 - abar_n) noise`, n = 0..train_steps - 1.

  Attributes:
    beta_schedule: 'linear' (AnimateDiff) or 'scaled_linear' (Stable Diffusion), before rescaling.
    beta_start: variance of the schedule at the first step, in 0..1.
    beta_end: variance of the schedule at the last step, in 0..1.
    train_steps: number of training steps, N.
    steps: number of sampling steps, at most `train_steps`.
    prediction: target of the network, 'v' (as in the paper) or 'data'. At low noise v is mostly
      noise, and small networks spend most of their capacity on it.
    time_power: training steps are drawn as N u^(1 / time_power), u uniform: 1 draws all alike (as
      in the paper), larger values lean towards noise. There the condition decides the result, and
      small networks learn to read texts much sooner.
    solver: 'ddim' (order 1: deterministic steps of Song et al. 2021, with eta 0), or 'unipc' or
      'dpmpp' (order 2), see `processes.multistep`.

  Raises:
    ValueError: if a value is out of range.
  """

  beta_schedule: str = 'linear'
  beta_start: float = 0.00085
  beta_end: float = 0.012
  train_steps: int = 1000
  steps: int = 50
  prediction: str = 'v'
  time_power: float = 1.0
  solver: str = 'ddim'

  def __post_init__(self):
    if self.beta_schedule not in SCHEDULES:
      raise ValueError(f'beta_schedule must be one of {SCHEDULES}, got {self.beta_schedule!r}')
    if self.prediction not in PREDICTIONS:
      raise ValueError(f'prediction must be one of {PREDICTIONS}, got {self.prediction!r}')
    if self.solver not in SOLVERS:
      raise ValueError(f'solver must be one of {SOLVERS}, got {self.solver!r}')
    # Otherwise no step adds noise, or `sample` divides by zero when the network predicts data.
    least = 0 if self.prediction == 'v' else np.nextafter(0, 1)
    if not (least <= self.beta_start < 1 and 0 < self.beta_end < 1 and self.train_steps > 1):
      raise ValueError(
        f'beta_start and beta_end must lie between 0 and 1 and train_steps be 2 or more, got'
        f' {self.beta_start}, {self.beta_end} and {self.train_steps}'
      )
    if not 0 < self.time_power < np.inf:
      raise ValueError(f'time_power must be a positive number, got {self.time_power}')
    if not 0 < self.steps <= self.train_steps:
      raise ValueError(f'steps must be 1 to train_steps={self.train_steps}, got {self.steps}')

  @property
  def alpha_bars(self) -> np.ndarray:
    """Share of the data in the variance at each step: float64 [N], decreasing, 0 at the last."""
    betas = variances(self.beta_schedule, self.beta_start, self.beta_end, self.train_steps)
    return zero_terminal(np.cumprod(1 - betas))

  def draw_t(self, key: Array, batch_size: int) -> Array:
    """Draw training times, each that of a step: float32 [B] in 0..1; see `time_power`."""
    if self.time_power == 1:
      step = jax.random.randint(key, (batch_size,), 0, self.train_steps)
    else:
      share = jax.random.uniform(key, (batch_size,)) ** (1 / self.time_power)
      step = jnp.minimum((share * self.train_steps).astype(jnp.int32), self.train_steps - 1)
    return 1 - (step + 1) / self.train_steps

  def corrupt(self, x: Array, noise: Array, t: Array) -> tuple[Array, Array]:
    """Add noise to data for time t.

    Args:
      x: data latents [B, ...].
      noise: standard normal, same shape as x.
      t: times [B], each the time of a training step.

    Returns:
      x_t and the target of the network, both with the shape of x. The target is
      v = sqrt(abar) noise - sqrt(1 - abar) x, or the data.
    """
    signal, spread = self._shares(x, t)
    target = x if self.prediction == 'data' else signal * noise - spread * x
    return signal * x + spread * noise, target

  def data(self, prediction: Array, x_t: Array, t: Array) -> Array:
    """Return the data that a prediction at x_t [B, ...] and times t [B] implies."""
    return self.data_of(prediction, x_t, *self._shares(x_t, t))

  def _shares(self, like: Array, t: Array) -> tuple[Array, Array]:
    """Return the shares of data and noise at times t [B], in a shape that broadcasts to `like`."""
    alpha_bars, step = self.alpha_bars, self._step(t)

    def share(values: np.ndarray) -> Array:
      table = jnp.asarray(np.sqrt(values), like.dtype)
      return table[step].reshape(-1, *[1] * (like.ndim - 1))

    return share(alpha_bars), share(1 - alpha_bars)

  def network_time(self, t: Array) -> Array:
    """Return the time as the network takes it: the training step, float32 [B], N - 1 at noise."""
    return self._step(t).astype(jnp.float32)

  def sample(self, predict: Callable[[Array, Array], Array], noise: Array) -> Array:
    """Sample data from noise with `solver`.

    Args:
      predict: maps (x_t [B, ...], t float32 [B]) to the network's prediction [B, ...].
      noise: standard normal, float32 [B, ...].

    Returns:
      Data latents, float32 [B, ...].
    """
    return integrate(self.solving(), predict, noise)

  def solving(self) -> Solver:
    """Return `solver` over `steps` of the training steps, one step at a time."""
    steps = trailing_steps(self.train_steps, self.steps)
    levels = np.append(self.alpha_bars[steps], 1.0)  # The last step ends at the data.
    signals, spreads = np.sqrt(levels), np.sqrt(1 - levels)
    times = 1 - (steps + 1) / self.train_steps
    if self.solver != 'ddim':
      return multistep.solver(self.solver, self.data_of, signals, spreads, times)

    def update(state: State, prediction: Array, row: Row) -> State:
      (x,), (signal, spread) = state, (row.signal, row.spread)
      data = self.data_of(prediction, x, signal, spread)
      if self.prediction == 'data':
        # No division by zero: step 0 has the smallest spread, and it is positive.
        noise = (x - signal * prediction) / spread
      else:
        noise = signal * prediction + spread * x
      next_signal, next_spread = row.numbers
      return (next_signal * data + next_spread * noise,)

    rows = Row(times, signals[:-1], spreads[:-1], (signals[1:], spreads[1:]))
    return Solver(rows, lambda noise: (noise,), update)

  def data_of(self, prediction: Array, x_t: Array, signal: Array, spread: Array) -> Array:
    """Return the data that a prediction at x_t = signal data + spread noise implies."""
    return prediction if self.prediction == 'data' else signal * x_t - spread * prediction

  def prediction_of(self, data: Array, x_t: Array, signal: Array, spread: Array) -> Array:
    """Return the prediction at x_t that implies these data: the inverse of `data_of`."""
    return data if self.prediction == 'data' else (signal * x_t - data) / spread

  def _step(self, t: Array) -> Array:
    """Return the training step n of times t, int32."""
    return jnp.round((1 - t) * self.train_steps).astype(jnp.int32) - 1


def variances(schedule: str, start: float, end: float, steps: int) -> np.ndarray:
  """Return the variance that each step adds (beta), float64 [steps].

  Args:
    schedule: 'linear' in the variance, or 'scaled_linear': linear in the standard deviation.
    start: variance at the first step.
    end: variance at the last step.
    steps: number of steps.
  """
  if schedule == 'linear':
    return np.linspace(start, end, steps)
  return np.linspace(start**0.5, end**0.5, steps) ** 2


def zero_terminal(alpha_bars: np.ndarray) -> np.ndarray:
  """Shift and scale sqrt(abar) to end at 0 and keep its first value (Lin et al., algorithm 1).

  Args:
    alpha_bars: cumulative products of 1 - beta, float64 [N].

  Returns:
    The rescaled abar, float64 [N].
  """
  root = np.sqrt(alpha_bars)
  return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def trailing_steps(train_steps: int, steps: int) -> np.ndarray:
  """Return the training steps that sampling visits, int [steps], decreasing.

  They are evenly spaced and start at the last training step (Lin et al., table 2, "trailing").
  """
  return np.round(np.arange(steps, 0, -1) * (train_steps / steps)).astype(int) - 1
