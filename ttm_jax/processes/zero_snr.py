"""Diffusion in discrete steps whose last one is pure noise, with v-prediction (the paper's U-Net).

The noise schedules of Stable Diffusion and AnimateDiff leave a trace of the data in their noisiest
step, which a network learns to rely on, and which pure noise lacks. The schedule is therefore
rescaled to a terminal signal-to-noise ratio of zero, the network predicts the velocity v, which is
defined there, and sampling begins there (Lin et al. 2024, "Common Diffusion Noise Schedules and
Sample Steps are Flawed", arXiv 2305.08891). The data, from which v follows, can be predicted in its
place.

Time runs as everywhere from t = 0 (noise) to t = 1 (data): step n of N is t = 1 - (n + 1) / N.
Tables are float64 on the host; in half precision the last steps would collapse.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

SCHEDULES = ('linear', 'scaled_linear')
PREDICTIONS = ('v', 'data')


@dataclasses.dataclass(frozen=True)
class ZeroSNRDiffusion:
  """The process `x_n = sqrt(abar_n) x + sqrt(1 - abar_n) noise`, n = 0..train_steps - 1.

  Attributes:
    beta_schedule: 'linear' (AnimateDiff) or 'scaled_linear' (Stable Diffusion), before rescaling.
    beta_start, beta_end: its variances at the first and the last step.
    train_steps: N.
    steps: of `sample`.
    prediction: what the network predicts, 'v' (the paper's) or 'data'. At little noise v is mostly
      the noise, on which small networks spend most of what they can.
  """

  beta_schedule: str = 'linear'
  beta_start: float = 0.00085
  beta_end: float = 0.012
  train_steps: int = 1000
  steps: int = 50
  prediction: str = 'v'

  def __post_init__(self):
    if self.beta_schedule not in SCHEDULES:
      raise ValueError(f'beta_schedule must be one of {SCHEDULES}, got {self.beta_schedule!r}')
    if self.prediction not in PREDICTIONS:
      raise ValueError(f'prediction must be one of {PREDICTIONS}, got {self.prediction!r}')
    # Else no step adds noise, or a prediction of the data leaves nothing to divide by.
    least = 0 if self.prediction == 'v' else np.nextafter(0, 1)
    if not (least <= self.beta_start < 1 and 0 < self.beta_end < 1 and self.train_steps > 1):
      raise ValueError(
        f'beta_start and beta_end must lie between 0 and 1 and train_steps be 2 or more, got'
        f' {self.beta_start}, {self.beta_end} and {self.train_steps}'
      )
    if not 0 < self.steps <= self.train_steps:
      raise ValueError(f'steps must be 1 to train_steps={self.train_steps}, got {self.steps}')

  @property
  def alpha_bars(self) -> np.ndarray:
    """Share of the data in the variance of each step: float64 [N], falling, 0 at the last."""
    betas = variances(self.beta_schedule, self.beta_start, self.beta_end, self.train_steps)
    return zero_terminal(np.cumprod(1 - betas))

  def draw_t(self, key: Array, batch_size: int) -> Array:
    """Training times, uniform over the steps: float32 [B] in 0..1."""
    step = jax.random.randint(key, (batch_size,), 0, self.train_steps)
    return 1 - (step + 1) / self.train_steps

  def corrupt(self, x: Array, noise: Array, t: Array) -> tuple[Array, Array]:
    """Moves data to time t.

    Args:
      x: data latents [B, ...].
      noise: standard normal, like x.
      t: times [B], each that of a step.

    Returns:
      x_t, and what the network has to predict there, v = sqrt(abar) noise - sqrt(1 - abar) x or
      the data; both like x.
    """
    alpha_bars, step = self.alpha_bars, self._step(t)

    def share(values: np.ndarray) -> Array:
      table = jnp.asarray(np.sqrt(values), x.dtype)
      return table[step].reshape(-1, *[1] * (x.ndim - 1))

    signal, spread = share(alpha_bars), share(1 - alpha_bars)
    target = x if self.prediction == 'data' else signal * noise - spread * x
    return signal * x + spread * noise, target

  def network_time(self, t: Array) -> Array:
    """The time as the network takes it: the number of the step, float32, N - 1 at noise."""
    return self._step(t).astype(jnp.float32)

  def sample(self, predict: Callable[[Array, Array], Array], noise: Array) -> Array:
    """Steps from noise to data without drawing new noise (DDIM, Song et al. 2021, with eta 0).

    Args:
      predict: maps (x_t like noise, t float32 [B]) to the network's prediction, like noise.
      noise: standard normal [B, ...], float32.

    Returns:
      Data latents, like noise.
    """
    steps = trailing_steps(self.train_steps, self.steps)
    here = self.alpha_bars[steps]
    following = np.append(here[1:], 1.0)  # The last step ends at the data.

    def step(x, values):
      t, signal, spread, next_signal, next_spread = values
      prediction = predict(x, jnp.full(x.shape[:1], t))
      if self.prediction == 'data':
        # No step is free of noise: spread is at least that of step 0.
        data, noise = prediction, (x - signal * prediction) / spread
      else:
        data, noise = signal * x - spread * prediction, signal * prediction + spread * x
      return next_signal * data + next_spread * noise, None

    columns = (
      1 - (steps + 1) / self.train_steps,
      *(np.sqrt(a) for a in (here, 1 - here, following, 1 - following)),
    )
    return jax.lax.scan(step, noise, tuple(jnp.asarray(c, jnp.float32) for c in columns))[0]

  def _step(self, t: Array) -> Array:
    return jnp.round((1 - t) * self.train_steps).astype(jnp.int32) - 1


def variances(schedule: str, start: float, end: float, steps: int) -> np.ndarray:
  """The variance that each step adds: float64 [steps].

  'linear' in the variance, or 'scaled_linear': in the standard deviation.
  """
  if schedule == 'linear':
    return np.linspace(start, end, steps)
  return np.linspace(start**0.5, end**0.5, steps) ** 2


def zero_terminal(alpha_bars: np.ndarray) -> np.ndarray:
  """Shifts and scales sqrt(abar) so that it ends at 0 and begins as it did (Lin et al., alg. 1)."""
  root = np.sqrt(alpha_bars)
  return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def trailing_steps(train_steps: int, steps: int) -> np.ndarray:
  """The steps that sampling visits: int [steps], falling from the last of the training steps.

  Evenly spaced from the end, where it matters to begin (Lin et al., table 2, "trailing").
  """
  return np.round(np.arange(steps, 0, -1) * (train_steps / steps)).astype(int) - 1
