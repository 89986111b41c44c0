"""The schedule, the path from noise to data, and its integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttm_jax.processes.flow_matching import (
  FlowMatching,
  linear_quadratic_schedule,
  shifted_schedule,
)


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


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'prediction': 'noise'}, "prediction must be one of .*'flow'.* got 'noise'"),
    ({'schedule': 'cosine'}, "schedule must be one of .*'shifted'.* got 'cosine'"),
    ({'solver': 'heun'}, "solver must be one of .*'unipc'.* got 'heun'"),
    ({'shift': 0.0}, 'shift must be above 0 and at most 100, got 0'),
    ({'shift': float('nan')}, 'shift must be above 0 and at most 100, got nan'),
    ({'shift': 101.0}, 'shift must be above 0 and at most 100, got 101'),
    ({'schedule': 'shifted', 'steps': 0}, 'steps must be 1 to 1000, got 0'),
    ({'schedule': 'shifted', 'steps': 1001}, 'steps must be 1 to 1000, got 1001'),
    ({'time_range': (0.5, 0.5)}, r'time_range must be \(low, high\) within 0 to 1, got'),
    ({'time_range': (0.0, 1.1)}, r'time_range must be \(low, high\) within 0 to 1, got'),
    ({'time_range': (0.5,)}, r'time_range must be \(low, high\) within 0 to 1, got'),
    ({'time_range': (0.9999, 1.0)}, 'time_range .* holds less than 0.0001 of the training times'),
  ],
)
def test_values_that_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    FlowMatching(**changes)


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
  same_x_t, flow = FlowMatching(sigma_min=0.1, prediction='flow').corrupt(x, noise, t)
  np.testing.assert_array_equal(same_x_t, x_t)
  np.testing.assert_array_equal(flow, -velocity)


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


def test_the_default_training_times_and_steps_are_the_papers():
  """Compare bits: neither shift, schedule nor range changes a run that does not set them."""
  key = jax.random.key(3)
  process = FlowMatching(mean=-1.0, steps=4)
  wanted = jax.nn.sigmoid(-1.0 + jax.random.normal(key, (64,)))
  np.testing.assert_array_equal(process.draw_t(key, 64), wanted)
  _, noise = pair()
  times = jnp.asarray(linear_quadratic_schedule(4, 250), jnp.float32)

  def step(x, t):
    return x + (t[1] - t[0]) * jnp.sin(3 * x + t[0]), None

  x, _ = jax.lax.scan(step, noise, (times[:-1], times[1:]))
  got = process.sample(lambda x, t: jnp.sin(3 * x + t[:, None, None]), noise)
  np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize('shift', [0.5, 5.0])
def test_the_shift_is_that_of_noise_levels(shift):
  key = jax.random.key(0)
  sigma = 1 - np.asarray(FlowMatching(mean=0.3).draw_t(key, 1000), np.float64)
  shifted = 1 - np.asarray(FlowMatching(mean=0.3, shift=shift).draw_t(key, 1000))
  np.testing.assert_allclose(shifted, shift * sigma / (1 + (shift - 1) * sigma), atol=1e-6)


@pytest.mark.parametrize('low, high', [(0.875, 1.0), (0.0, 0.875), (0.2, 0.7)])
def test_training_times_of_one_expert(low, high):
  whole = FlowMatching(shift=12.0)
  process = FlowMatching(shift=12.0, time_range=(low, high))
  every = 1 - np.asarray(whole.draw_t(jax.random.key(0), 200_000))
  sigma = 1 - np.asarray(process.draw_t(jax.random.key(1), 20_000))
  assert low - 1e-6 <= sigma.min() and sigma.max() <= high + 1e-6
  # They are distributed as those of the whole range that lie in it.
  at = np.linspace(0.05, 0.95, 10)
  wanted = np.quantile(every[(every >= low) & (every <= high)], at)
  np.testing.assert_allclose(np.quantile(sigma, at), wanted, atol=0.01)


@pytest.mark.parametrize('prediction', ['velocity', 'data', 'flow'])
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


def test_all_predictions_of_one_truth_integrate_alike():
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

  networks = {'data': data, 'velocity': velocity, 'flow': lambda x_t, t: -velocity(x_t, t)}

  def sampled(prediction, **changes):
    process = FlowMatching(sigma_min=0.0, prediction=prediction, **changes)
    return process.sample(networks[prediction], noise)

  by_data = sampled('data')
  np.testing.assert_allclose(by_data, sampled('velocity'), rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(sampled('flow'), sampled('velocity'))
  # The flow maps N(0, 1) to N(1, 4), up to the error of 50 Euler steps.
  np.testing.assert_allclose(by_data, 1 + 2 * noise, atol=0.25)


def test_steps_are_those_of_the_schedule():
  process = FlowMatching(steps=4, emulated_steps=10)
  schedule = linear_quadratic_schedule(4, 10)
  got = process.sample(lambda x_t, t: x_t * t[:, None], jnp.ones((2, 3)))
  wanted = np.prod(1 + np.diff(schedule) * schedule[:-1])
  np.testing.assert_allclose(got, np.full((2, 3), wanted), rtol=1e-6)


@pytest.mark.parametrize('shift', [1.0, 5.0])
def test_shifted_schedule(shift):
  for steps in (1, 2, 50, 1000):
    for solver, least in (('euler', shift / (999 + shift)), ('unipc', 0.001 + 0.999 / steps)):
      sigmas = shifted_schedule(steps, shift, solver)
      assert len(sigmas) == steps + 1 and (np.diff(sigmas.astype(np.float32)) < 0).all()
      assert sigmas[0] == 1 - (1e-6 if solver == 'unipc' else 0) and sigmas[-1] == 0
      if steps > 1:
        assert sigmas[-2] == pytest.approx(shift * least / (1 + (shift - 1) * least))


def test_shifted_schedule_golden():
  """The levels before 0 that the docstring states."""
  assert shifted_schedule(50, 5.0, 'unipc')[-2] == pytest.approx(0.0968, abs=5e-5)
  assert shifted_schedule(50, 5.0, 'euler')[-2] == pytest.approx(0.0244, abs=5e-5)


@pytest.mark.parametrize('shape', [(1, 5), (2, 3, 2, 2, 4)])
@pytest.mark.parametrize('shift', [1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize('steps', [4, 10, 50])
def test_euler_as_in_diffusers(steps, shift, shape):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
  diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
  noise, goal = np.random.default_rng(steps).normal(size=(2, *shape)).astype(np.float32)
  process = FlowMatching(0.0, steps, prediction='flow', shift=shift, schedule='shifted')
  wanted = torch.from_numpy(noise)
  theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
  theirs.set_timesteps(steps)
  for t in theirs.timesteps:
    flow = torch.sin(2 * wanted + t / 500) + torch.from_numpy(goal)
    wanted = theirs.step(flow, t, wanted).prev_sample

  def predict(x, t):
    assert t.shape == x.shape[:1]
    return jnp.sin(2 * x + process.network_time(t[0]) / 500) + goal

  np.testing.assert_allclose(process.sample(predict, noise), wanted, rtol=1e-5, atol=1e-5)
