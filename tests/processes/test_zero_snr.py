"""The rescaled schedule, the path from noise to data, and sampling along it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttm_jax.processes.zero_snr import (
  ZeroSNRDiffusion,
  trailing_steps,
  variances,
  zero_terminal,
)


@pytest.mark.parametrize(
  'schedule, before, after',
  [
    (
      'linear',
      {0: 0.99915000, 499: 0.16181215, 999: 0.00157896},
      {0: 0.99915000, 499: 0.14252938, 998: 6.277e-08, 999: 0.0},
    ),
    (
      'scaled_linear',
      {0: 0.99915000, 499: 0.27766965, 999: 0.00466010},
      {0: 0.99915000, 499: 0.24235917, 998: 1.968e-07, 999: 0.0},
    ),
  ],
)
def test_schedule(schedule, before, after):
  plain = np.cumprod(1 - variances(schedule, 0.00085, 0.012, 1000))
  rescaled = ZeroSNRDiffusion(beta_schedule=schedule).alpha_bars
  assert plain.dtype == rescaled.dtype == np.float64
  for table, golden in ((plain, before), (rescaled, after)):
    for step, value in golden.items():
      assert table[step] == pytest.approx(value, rel=1e-3 if value < 1e-5 else 1e-5)
  assert (np.diff(rescaled) < 0).all()
  np.testing.assert_array_equal(rescaled, zero_terminal(plain))


def test_variances_of_the_last_steps():
  alpha_bars = ZeroSNRDiffusion().alpha_bars
  betas = 1 - alpha_bars[1:] / alpha_bars[:-1]
  assert betas[997] == pytest.approx(0.751273, rel=1e-5) and betas[998] == 1


def test_trailing_steps():
  assert trailing_steps(1000, 50).tolist() == list(range(999, 0, -20))
  assert trailing_steps(1000, 3).tolist() == [999, 666, 332]
  assert trailing_steps(10, 10).tolist() == list(range(9, -1, -1))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'beta_schedule': 'cosine'}, "must be one of .* got 'cosine'"),
    ({'steps': 0}, 'steps must be 1 to train_steps=1000, got 0'),
    ({'steps': 1001}, 'got 1001'),
    ({'prediction': 'noise'}, "prediction must be one of .* got 'noise'"),
    ({'time_power': 0.0}, 'time_power must be a positive number, got 0.0'),
    ({'time_power': float('nan')}, 'time_power must be a positive number, got nan'),
  ],
)
def test_impossible_values(options, message):
  with pytest.raises(ValueError, match=message):
    ZeroSNRDiffusion(**options)


@pytest.mark.parametrize('power', [1.0, 3.0])
def test_training_times(power):
  process = ZeroSNRDiffusion(time_power=power)
  t = np.asarray(process.draw_t(jax.random.key(0), 100_000), np.float64)
  steps = (1 - t) * 1000 - 1
  np.testing.assert_allclose(steps, steps.round(), atol=1e-3)  # Times of steps, all in range.
  assert steps.min() > -0.5 and steps.max() < 999.5 and steps.max() > 998.5
  for quantile in (0.1, 0.5, 0.9):
    assert np.quantile(steps, quantile) == pytest.approx(1000 * quantile ** (1 / power), abs=8)


def pair():
  x, noise = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
  return 2 * x + 1, noise


def test_corrupt():
  x, noise = pair()
  process = ZeroSNRDiffusion()
  t = 1 - (jnp.array([999, 499, 0]) + 1) / 1000
  x_t, v = process.corrupt(x, noise, t)
  np.testing.assert_array_equal(x_t[0], noise[0])  # No data is left.
  np.testing.assert_array_equal(v[0], -x[0])
  a, s = np.sqrt(0.14252938), np.sqrt(1 - 0.14252938)
  np.testing.assert_allclose(x_t[1], a * x[1] + s * noise[1], rtol=1e-5)
  np.testing.assert_allclose(v[1], a * noise[1] - s * x[1], rtol=1e-4, atol=1e-6)
  # Data and noise follow from the two.
  a, s = np.sqrt(0.99915), np.sqrt(0.00085)
  np.testing.assert_allclose(a * x_t[2] - s * v[2], x[2], atol=1e-5)
  np.testing.assert_allclose(s * x_t[2] + a * v[2], noise[2], atol=1e-5)


def test_the_data_as_target():
  x, noise = pair()
  t = 1 - (jnp.array([999, 499, 0]) + 1) / 1000
  x_t, target = ZeroSNRDiffusion(prediction='data').corrupt(x, noise, t)
  np.testing.assert_array_equal(target, x)
  np.testing.assert_array_equal(x_t, ZeroSNRDiffusion().corrupt(x, noise, t)[0])


@pytest.mark.parametrize('steps', [4, 50])
def test_a_network_of_the_data_takes_the_way_of_its_v(steps):
  _, noise = pair()
  of_v, of_data = (ZeroSNRDiffusion(steps=steps, prediction=p) for p in ('v', 'data'))

  def data(x_t, t):
    return jnp.tanh(x_t) + t[:, None, None]

  def v(x_t, t):
    alpha_bar = jnp.asarray(of_v.alpha_bars, jnp.float32)[of_v.network_time(t).astype(int)]
    signal, spread = (jnp.sqrt(a)[:, None, None] for a in (alpha_bar, 1 - alpha_bar))
    x = data(x_t, t)
    return signal * (x_t - signal * x) / spread - spread * x

  got, wanted = of_data.sample(data, noise), of_v.sample(v, noise)
  np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_every_step_is_drawn_and_told_apart():
  process = ZeroSNRDiffusion()
  t = process.draw_t(jax.random.key(0), 100_000)
  assert t.min() >= 0 and t.max() < 1
  numbers = np.asarray(process.network_time(t))
  assert numbers.dtype == np.float32
  counts = np.bincount(numbers.astype(int), minlength=1000)
  assert len(counts) == 1000 and counts.min() > 50 and counts.max() < 160
  np.testing.assert_array_equal(process.network_time(jnp.array([0.0, 0.5, 0.999])), [999, 499, 0])
  few = ZeroSNRDiffusion(train_steps=7, steps=2)
  steps = np.arange(7)
  np.testing.assert_array_equal(few.network_time(1 - (jnp.asarray(steps) + 1) / 7), steps)


@pytest.mark.parametrize('steps', [1, 3, 50])
def test_a_perfect_network_recovers_the_data(steps):
  x, noise = pair()
  process = ZeroSNRDiffusion(steps=steps)
  seen = []

  def v(x_t, t):
    seen.append(t.shape)
    alpha_bar = jnp.asarray(process.alpha_bars, jnp.float32)[process.network_time(t).astype(int)]
    signal, spread = (jnp.sqrt(a)[:, None, None] for a in (alpha_bar, 1 - alpha_bar))
    return signal * (x_t - signal * x) / spread - spread * x

  got = process.sample(v, noise)
  np.testing.assert_allclose(got, x, atol=2e-5)
  assert seen == [(3,)] and np.abs(got - noise).max() > 1


def test_the_best_network_for_normal_data_ends_with_their_spread():
  _, noise = pair()
  process = ZeroSNRDiffusion(steps=250)
  alpha_bars = jnp.asarray(process.alpha_bars, jnp.float32)

  def v(x_t, t):
    a = alpha_bars[process.network_time(t).astype(int)][:, None, None]
    data = 1 + 4 * jnp.sqrt(a) / (4 * a + 1 - a) * (x_t - jnp.sqrt(a))  # For N(1, 4).
    noise = (x_t - jnp.sqrt(a) * data) / jnp.sqrt(1 - a)
    return jnp.sqrt(a) * noise - jnp.sqrt(1 - a) * data

  # The path of the equation maps a sample to the same quantile of the data.
  np.testing.assert_allclose(process.sample(v, noise), 1 + 2 * noise, atol=0.1)


@pytest.mark.parametrize('schedule', ['linear', 'scaled_linear'])
@pytest.mark.parametrize('steps', [8, 50])
def test_sampling_is_that_of_diffusers(schedule, steps):
  # Use step counts that divide 1000; otherwise diffusers goes back by 1000 // steps, which is not
  # exactly the step that it visits next.
  torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
  diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
  scheduler = diffusers.DDIMScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule=schedule,
    clip_sample=False,
    prediction_type='v_prediction',
    timestep_spacing='trailing',
    rescale_betas_zero_snr=True,
  )
  scheduler.set_timesteps(steps)
  noise = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
  x = torch.from_numpy(noise)
  for n in scheduler.timesteps:
    x = scheduler.step(torch.sin(3 * x + n / 500), n, x).prev_sample
  process = ZeroSNRDiffusion(beta_schedule=schedule, steps=steps)
  got = process.sample(
    lambda x, t: jnp.sin(3 * x + process.network_time(t)[:, None, None] / 500), noise
  )
  error = np.abs(got - x.numpy()).max() / np.abs(x.numpy()).max()
  print(f'{schedule}, {steps} steps: relative error {error:.1e}')
  assert error < 1e-5
