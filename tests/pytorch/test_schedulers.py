"""The schedulers of exported folders step like the JAX processes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ttm_jax.models.unet.preset import PRESET
from ttm_jax.processes.flow_matching import (
  FlowMatching,
  linear_quadratic_schedule,
  scheduler_config,
)
from ttm_jax.processes.zero_snr import ZeroSNRDiffusion

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from ttm_jax.pytorch.schedulers import FlowMatchingScheduler, ZeroSNRScheduler  # noqa: E402


@pytest.mark.parametrize('prediction', ['velocity', 'data', 'flow'])
def test_flow_matching_steps_as_ours(prediction):
  rng = np.random.default_rng(0)
  x, goal = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
  for steps in (10, 50):
    process = FlowMatching(steps=steps, emulated_steps=100, prediction=prediction, sigma_min=1e-2)
    wanted = process.sample(lambda x, t: 0.3 * x + goal * (1 + t[:, None, None]), x)
    schedule = linear_quadratic_schedule(steps, 100).astype(np.float32)
    times = np.asarray(process.network_time(schedule))[:-1]
    scheduler = FlowMatchingScheduler(100, 1e-2, prediction)
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(scheduler.timesteps, times, rtol=1e-6, atol=1e-4)
    y = torch.from_numpy(x)
    for t in scheduler.timesteps:
      prediction_at = 0.3 * y + torch.from_numpy(goal) * (2 - t / 1000)
      y = scheduler.step(prediction_at, t, y).prev_sample
    np.testing.assert_allclose(y, wanted, atol=2e-5)
  with pytest.raises(ValueError, match='even and at most 100, got 7'):
    scheduler.set_timesteps(7)


def check_steps(process, scheduler, steps, x, goal, tolerance):
  """Check that a scheduler steps as a process does, twice, for a made-up network."""

  def predict(x, t):
    return jnp.sin(2 * x + process.network_time(t[:, None, None]) / 500) + goal

  wanted = process.sample(predict, x)
  for _ in range(2):  # A second video starts anew.
    scheduler.set_timesteps(steps)
    y = torch.from_numpy(x)
    for t in scheduler.timesteps:
      seen = torch.sin(2 * y + t.float() / 500) + torch.from_numpy(goal)
      y = scheduler.step(seen, t, y).prev_sample
    np.testing.assert_allclose(y, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('solver', ['euler', 'unipc', 'dpmpp'])
@pytest.mark.parametrize('prediction', ['velocity', 'data', 'flow'])
def test_shifted_flow_matching_steps_as_ours(prediction, solver):
  rng = np.random.default_rng(1)
  x, goal = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
  for steps, shift in ((1, 5.0), (7, 1.0), (20, 5.0)):
    process = FlowMatching(
      0.0, steps, prediction=prediction, shift=shift, schedule='shifted', solver=solver
    )
    scheduler = FlowMatchingScheduler(**scheduler_config(process))

    check_steps(process, scheduler, steps, x, goal, 1e-5)
  with pytest.raises(ValueError, match='1 to 1000, got 0'):
    scheduler.set_timesteps(0)


@pytest.mark.parametrize('solver', ['unipc', 'dpmpp'])
@pytest.mark.parametrize('prediction', ['velocity', 'data', 'v'])
def test_multistep_solvers_step_as_ours(prediction, solver):
  """On the linear-quadratic schedule, and for diffusion."""
  rng = np.random.default_rng(2)
  x, goal = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
  for steps in (2, 10):
    if prediction != 'v':
      process = FlowMatching(1e-2, steps, 100, prediction, solver=solver)
      scheduler = FlowMatchingScheduler(**scheduler_config(process))
    else:
      process = ZeroSNRDiffusion(steps=steps, solver=solver)
      scheduler = ZeroSNRScheduler(**PRESET.torch.scheduler_config(process))

    check_steps(process, scheduler, steps, x, goal, 1e-4)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'prediction_type': 'epsilon'}, 'prediction_type must be one of'),
    ({'schedule': 'karras'}, 'schedule must be one of'),
    ({'solver': 'heun'}, 'solver must be one of'),
    ({'shift': -1.0}, 'shift must be above 0 and at most 100, got -1'),
  ],
)
def test_values_that_flow_matching_refuses(changes, message):
  with pytest.raises(ValueError, match=message):
    FlowMatchingScheduler(**changes)


def test_the_scheduler_is_saved_with_its_fields(tmp_path):
  process = FlowMatching(0.0, 8, shift=3.0, schedule='shifted', solver='unipc', prediction='flow')
  FlowMatchingScheduler(**scheduler_config(process)).save_pretrained(tmp_path)
  found = FlowMatchingScheduler.from_pretrained(tmp_path)
  assert {k: found.config[k] for k in scheduler_config(process)} == scheduler_config(process)


@pytest.mark.parametrize('schedule, prediction', [('linear', 'v'), ('scaled_linear', 'data')])
def test_ddim_steps_as_ours_and_as_diffusers(schedule, prediction):
  rng = np.random.default_rng(0)
  x, goal = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
  process = ZeroSNRDiffusion(beta_schedule=schedule, prediction=prediction)
  scheduler = ZeroSNRScheduler(**PRESET.torch.scheduler_config(process))
  other = diffusers.DDIMScheduler.from_config(scheduler.config)
  for steps in (8, 30, 50):
    process = dataclasses.replace(process, steps=steps)
    wanted = process.sample(lambda x, t: 0.3 * x + goal, x)
    found = []
    for one in (scheduler, other):
      one.set_timesteps(steps)
      y = torch.from_numpy(x)
      for t in one.timesteps:
        y = one.step(0.3 * y + torch.from_numpy(goal), t, y).prev_sample
      found.append(y.numpy())
    np.testing.assert_allclose(found[0], wanted, atol=2e-5)
    # There a step of 1000 / 30 does not end exactly where the next one begins.
    assert (np.abs(found[1] - wanted).max() < 1e-4) == (1000 % steps == 0)
  with pytest.raises(ValueError, match='prediction_type must be'):
    ZeroSNRScheduler(prediction_type='epsilon')
