"""The schedule, the path from noise to data, and its integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttm_jax.processes.flow_matching import FlowMatching, linear_quadratic_schedule


@pytest.mark.parametrize(
  'emulated, golden',
  [
    (
      250,
      {
        24: 0.096,
        25: 0.1,
        26: 0.10528,
        27: 0.11312,
        30: 0.152,
        40: 0.448,
        48: 0.86912,
        49: 0.93328,
        50: 1.0,
      },
    ),
    (
      1000,
      {
        24: 0.024,
        25: 0.025,
        26: 0.02752,
        27: 0.03308,
        30: 0.068,
        40: 0.382,
        48: 0.85208,
        49: 0.92452,
        50: 1.0,
      },
    ),
  ],
)
def test_schedule_golden(emulated, golden):
  schedule = linear_quadratic_schedule(50, emulated)
  np.testing.assert_allclose(schedule[list(golden)], list(golden.values()), atol=1e-12)
  assert schedule.dtype == np.float64 and len(schedule) == 51
  assert (np.diff(schedule) > 0).all()


def test_schedule_that_emulates_nothing_is_linear():
  np.testing.assert_allclose(linear_quadratic_schedule(10, 10), np.arange(11) / 10)


@pytest.mark.parametrize('steps, emulated', [(7, 250), (0, 250), (-2, 250), (252, 250)])
def test_schedule_errors(steps, emulated):
  message = f'steps must be even and at most emulated_steps=250, got {steps}'
  with pytest.raises(ValueError, match=message):
    linear_quadratic_schedule(steps, emulated)
  with pytest.raises(ValueError, match=message):
    FlowMatching(steps=steps, emulated_steps=emulated)  # Already here, not only when sampling.


def test_unknown_prediction():
  with pytest.raises(ValueError, match="must be 'velocity' or 'data', got 'noise'"):
    FlowMatching(prediction='noise')


def pair():
  x, noise = jax.random.normal(jax.random.key(0), (2, 2, 3, 4))
  return 2 * x + 1, noise


def test_corrupt():
  x, noise = pair()
  t = jnp.array([0.0, 0.3])
  process = FlowMatching(sigma_min=0.1)
  x_t, velocity = process.corrupt(x, noise, t)
  np.testing.assert_allclose(x_t[0], noise[0], rtol=1e-6)  # Zero terminal signal-to-noise ratio.
  np.testing.assert_allclose(x_t[1], 0.3 * x[1] + 0.73 * noise[1], rtol=1e-5)
  np.testing.assert_allclose(velocity, x - 0.9 * noise, rtol=1e-5)
  # The target is the derivative of the path.
  ahead, _ = process.corrupt(x, noise, t + 0.5)
  np.testing.assert_allclose((ahead - x_t) / 0.5, velocity, atol=1e-5)
  same_x_t, data = FlowMatching(sigma_min=0.1, prediction='data').corrupt(x, noise, t)
  np.testing.assert_array_equal(same_x_t, x_t)
  np.testing.assert_array_equal(data, x)


def test_corrupt_ends():
  x, noise = jnp.full((2, 5), 3.0), jnp.full((2, 5), -1.0)
  x_t, _ = FlowMatching().corrupt(x, noise, jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(x_t[0], -1.0)
  np.testing.assert_allclose(x_t[1], 3.0 - 1e-5, atol=1e-6)


def test_time_of_the_network():
  t = FlowMatching().network_time(jnp.array([0.0, 0.25, 1.0]))
  np.testing.assert_allclose(t, [1000, 750, 0])


@pytest.mark.parametrize('mean', [0.0, -1.0])
def test_training_times(mean):
  t = np.asarray(FlowMatching(mean=mean).draw_t(jax.random.key(0), 20_000))
  assert t.min() > 0 and t.max() < 1
  logits = np.log(t / (1 - t))
  np.testing.assert_allclose([logits.mean(), logits.std()], [mean, 1], atol=0.02)
  assert np.median(t) == pytest.approx(1 / (1 + np.exp(-mean)), abs=0.01)


@pytest.mark.parametrize('prediction', ['velocity', 'data'])
def test_a_perfect_network_recovers_the_data(prediction):
  x, noise = pair()
  process = FlowMatching(prediction=prediction)
  _, target = process.corrupt(x, noise, jnp.zeros(2))
  got = process.sample(lambda x_t, t: target, noise)
  # The path ends with noise of scale sigma_min.
  np.testing.assert_allclose(got, x, atol=1e-4)
  process = FlowMatching(prediction=prediction, sigma_min=0.2, steps=4)
  _, target = process.corrupt(x, noise, jnp.zeros(2))
  got = process.sample(lambda x_t, t: target, noise)
  np.testing.assert_allclose(got, x + 0.2 * noise, atol=1e-5)


def test_both_predictions_of_one_truth_integrate_alike():
  """Use the optimal network for normal data with standard deviation 2 and mean 1."""
  _, noise = pair()

  def data(x_t, t):
    t = t[:, None, None]
    gain = 4 * t / (4 * t * t + (1 - t) ** 2)
    return 1 + gain * (x_t - t)

  def velocity(x_t, t):
    # E[x - noise | x_t], where noise = (x_t - t x) / (1 - t).
    x = data(x_t, t)
    return x - (x_t - t[:, None, None] * x) / (1 - t[:, None, None])

  processes = {p: FlowMatching(sigma_min=0.0, prediction=p) for p in ('data', 'velocity')}
  by_data = processes['data'].sample(data, noise)
  by_velocity = processes['velocity'].sample(velocity, noise)
  np.testing.assert_allclose(by_data, by_velocity, rtol=1e-4, atol=1e-4)
  # The flow maps N(0, 1) to N(1, 4), up to the error of 50 Euler steps.
  np.testing.assert_allclose(by_data, 1 + 2 * noise, atol=0.25)


def test_steps_are_those_of_the_schedule():
  process = FlowMatching(steps=4, emulated_steps=10)
  schedule = linear_quadratic_schedule(4, 10)
  got = process.sample(lambda x_t, t: x_t * t[:, None], jnp.ones((2, 3)))
  wanted = np.prod(1 + np.diff(schedule) * schedule[:-1])
  np.testing.assert_allclose(got, np.full((2, 3), wanted), rtol=1e-6)
