"""The multistep solvers: parity with diffusers, closed forms, order of convergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttm_jax.processes.coefficients import corrector, predictor
from ttm_jax.processes.flow_matching import FlowMatching, shifted_schedule
from ttm_jax.processes.zero_snr import ZeroSNRDiffusion


def process(steps, prediction='flow', shift=5.0, solver='unipc'):
  return FlowMatching(
    0.0, steps, prediction=prediction, shift=shift, schedule='shifted', solver=solver
  )


@pytest.mark.parametrize('shape', [(1, 5), (2, 3, 2, 2, 4)])
@pytest.mark.parametrize('shift', [1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize('steps', [4, 10, 50])
def test_as_in_diffusers(steps, shift, shape):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
  diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
  noise, goal = np.random.default_rng(steps).normal(size=(2, *shape)).astype(np.float32)
  theirs = diffusers.UniPCMultistepScheduler(
    prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=shift
  )
  theirs.set_timesteps(steps)
  wanted, times = torch.from_numpy(noise), []
  for t in theirs.timesteps:
    times.append(float(t))
    flow = torch.sin(2 * wanted + t / 500) + torch.from_numpy(goal)
    wanted = theirs.step(flow, t, wanted).prev_sample
  ours, seen = process(steps, shift=shift), []

  def predict(x, t):
    jax.debug.callback(lambda t: seen.append(float(t)), ours.network_time(t[0]), ordered=True)
    return jnp.sin(2 * x + ours.network_time(t[0]) / 500) + goal

  got = jax.block_until_ready(ours.sample(predict, noise))
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
  jax.effects_barrier()
  np.testing.assert_allclose(seen, times, atol=1e-3)  # Whole numbers, in both.


@pytest.mark.parametrize('steps', [4, 20])
def test_dpm_solver_as_in_diffusers(steps):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
  diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
  noise, goal = np.random.default_rng(steps).normal(size=(2, 2, 3)).astype(np.float32)
  theirs = diffusers.DPMSolverMultistepScheduler(
    beta_schedule='scaled_linear',
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type='v_prediction',
    rescale_betas_zero_snr=True,
    timestep_spacing='trailing',
    euler_at_final=True,
  )
  theirs.set_timesteps(steps)
  wanted = torch.from_numpy(noise)
  for t in theirs.timesteps:
    v = torch.sin(2 * wanted + t / 500) + torch.from_numpy(goal)
    wanted = theirs.step(v, t, wanted).prev_sample
  ours = ZeroSNRDiffusion('scaled_linear', steps=steps, solver='dpmpp')

  def predict(x, t):
    return jnp.sin(2 * x + ours.network_time(t)[:, None] / 500) + goal

  # diffusers gives the noisiest step a little signal: its levels cannot be infinite.
  np.testing.assert_allclose(ours.sample(predict, noise), wanted, atol=2e-2)


SECOND_ORDER = [
  FlowMatching(1e-5, 20, prediction='data', solver='unipc'),
  FlowMatching(1e-5, 20, solver='dpmpp'),
  process(20, solver='dpmpp'),
  ZeroSNRDiffusion(steps=20, solver='unipc'),
  ZeroSNRDiffusion(steps=20, prediction='data', solver='dpmpp'),
]


@pytest.mark.parametrize('solving', SECOND_ORDER, ids=str)
def test_any_process_ends_at_the_data_of_a_perfect_network(solving):
  noise, x = jax.random.normal(jax.random.key(0), (2, 2, 3))

  def predict(x_t, t):
    return solving.corrupt(x, noise, t)[1]

  np.testing.assert_allclose(solving.sample(predict, noise), x, atol=1e-4)


@pytest.mark.parametrize('name', ['unipc', 'dpmpp'])
@pytest.mark.parametrize('first', ['euler', 'ddim'])
def test_they_need_fewer_steps_than_solvers_of_order_1(name, first):
  """Use the optimal network for normal data with standard deviation 2 and mean 1."""
  noise = jax.random.normal(jax.random.key(0), (2, 3))

  def error(steps, solver):
    if first == 'euler':
      one = process(steps, 'data', 1.0, solver)
    else:
      one = ZeroSNRDiffusion(steps=steps, prediction='data', solver=solver)

    def data(x_t, t):
      noisy, clean = np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32)
      signal, spread = one.corrupt(clean, noisy, t)[0], one.corrupt(noisy, clean, t)[0]
      return 1 + 4 * signal / (4 * signal**2 + spread**2) * (x_t - signal)

    return np.abs(one.sample(data, noise) - (1 + 2 * noise)).max()

  assert error(20, name) < 0.3 * error(20, first)


@pytest.mark.parametrize('steps', [1, 2, 3, 20])
def test_the_data_of_a_perfect_network(steps):
  noise, x = jax.random.normal(jax.random.key(0), (2, 2, 3))
  for prediction, wanted in (('flow', noise - x), ('velocity', x - noise), ('data', x)):
    got = process(steps, prediction).sample(lambda x_t, t, wanted=wanted: wanted, noise)
    np.testing.assert_allclose(got, x, atol=1e-5)


@pytest.mark.parametrize('steps', [1, 2, 3, 10])
def test_coefficients_keep_constant_data(steps):
  """A sample t x + s noise of constant data x stays on its path, by corrector and predictor."""
  sigmas = shifted_schedule(steps, 3.0, 'unipc')
  correct, ahead = corrector(1 - sigmas, sigmas), predictor(1 - sigmas, sigmas)
  before = np.insert(sigmas[:-2], 0, sigmas[0])  # The first corrector keeps the noise.
  for got, s, t in (
    (correct[1:], before[1:], sigmas[1:-1]),
    (ahead, sigmas[:-1], sigmas[1:]),
  ):
    np.testing.assert_allclose(got[:, 0] * s, t, atol=1e-12)  # Of the noise.
    np.testing.assert_allclose(got[:, 0] * (1 - s) + got[:, 1:].sum(1), 1 - t, atol=1e-12)
  np.testing.assert_array_equal(correct[0], [1, 0, 0, 0])
  np.testing.assert_allclose(ahead[-1], [0, 0, 1], atol=1e-12)  # The last step ends at the data.
  assert (ahead[0, 1], correct[1:2, 1].sum()) == (0, 0)  # The first step has order 1.
