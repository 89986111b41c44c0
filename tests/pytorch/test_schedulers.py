"""The schedulers of exported folders step like the JAX processes."""

import dataclasses

import numpy as np
import pytest

from ttm_jax.models.unet.preset import PRESET
from ttm_jax.processes.flow_matching import FlowMatching, linear_quadratic_schedule
from ttm_jax.processes.zero_snr import ZeroSNRDiffusion

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from ttm_jax.pytorch.schedulers import FlowMatchingScheduler, ZeroSNRScheduler  # noqa: E402


@pytest.mark.parametrize('prediction', ['velocity', 'data'])
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
