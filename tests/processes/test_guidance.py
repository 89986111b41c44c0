"""Guidance rescale corrects the standard deviation, and leaves constant predictions unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import exported
from ttm_jax import conditioning
from ttm_jax.processes.flow_matching import FlowMatching
from ttm_jax.processes.zero_snr import ZeroSNRDiffusion
from ttm_jax.training.denoiser import Denoiser

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from ttm_jax.pytorch import conditioning as torch_conditioning  # noqa: E402
from ttm_jax.pytorch.schedulers import FlowMatchingScheduler, ZeroSNRScheduler  # noqa: E402


def jax_rescaled(mixed, full, rescale, dtype='float32'):
  given = (jnp.asarray(x, dtype) for x in (mixed, full))
  return np.asarray(conditioning.rescaled(*given, rescale), np.float32)


def torch_rescaled(mixed, full, rescale, dtype='float32'):
  given = (torch.from_numpy(x).to(getattr(torch, dtype)) for x in (mixed, full))
  return torch_conditioning.rescaled(*given, rescale).float().numpy()


BOTH = pytest.mark.parametrize('rescaled', [jax_rescaled, torch_rescaled])


@BOTH
@pytest.mark.parametrize('rescale', [0.5, 1.0])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('value', [0.0, 0.1, -3.3])
def test_a_constant_prediction_is_left_alone(rescaled, rescale, dtype, value):
  """In the same batch as a sample that is rescaled by the formula."""
  rng = np.random.default_rng(0)
  mixed, full = rng.normal(size=(2, 2, 3, 4, 5, 6)).astype(np.float32)
  mixed[0], full[0] = value, value
  got = rescaled(mixed, full, rescale, dtype)
  np.testing.assert_allclose(got[0], value, rtol=0.01)
  factor = rescale * full[1].std() / mixed[1].std() + 1 - rescale
  np.testing.assert_allclose(got[1], mixed[1] * factor, rtol=0.05, atol=0.02)


@BOTH
def test_what_one_of_the_predictions_is_constant(rescaled):
  rng = np.random.default_rng(0)
  noisy, still = rng.normal(size=(1, 2, 3, 4)).astype(np.float32), np.ones((1, 2, 3, 4), np.float32)
  # A constant guided prediction cannot get a deviation; one with deviation loses its share.
  np.testing.assert_allclose(rescaled(still, noisy, 0.7), still)
  np.testing.assert_allclose(rescaled(noisy, still, 0.7), 0.3 * noisy, rtol=1e-5)


@BOTH
def test_large_half_precision_values_do_not_overflow(rescaled):
  """Squares of 400 exceed float16."""
  mixed = np.full((1, 4, 4), 400, np.float32) * np.where(np.arange(4) % 2, 1, -1)
  got = rescaled(mixed.astype(np.float32), (0.5 * mixed).astype(np.float32), 1.0, 'float16')
  np.testing.assert_allclose(got, 0.5 * mixed, rtol=1e-3)


def test_both_rescale_alike():
  rng = np.random.default_rng(1)
  mixed, full = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  np.testing.assert_allclose(
    jax_rescaled(mixed, full, 0.7), torch_rescaled(mixed, full, 0.7), rtol=1e-5
  )


@pytest.mark.parametrize(
  'preset',
  [pytest.param(n, marks=pytest.mark.slow if n == 'unet' else ()) for n in exported.NAMES],
)
def test_a_fresh_network_samples_finite_values(preset):
  """Its last layer is zero: all predictions are constant."""
  settings, where = exported.config(preset, exported.TI2V), exported.context(preset)
  denoiser = Denoiser(settings, where)
  model = denoiser.build(0)
  graphdef, params = nnx.split(model)
  text = denoiser.null_text.text
  condition = type(denoiser.null_text)(text, np.zeros((1, *where.latent_shape), np.float32))
  assert settings.sample.rescale == 0.5
  latents = jax.jit(
    lambda params: denoiser.sample(
      nnx.merge(graphdef, params), condition, jax.random.key(0), where.latent_shape
    )
  )(params)
  assert np.isfinite(latents).all() and np.std(latents) > 0.1


@pytest.mark.parametrize(
  'changes',
  [
    {'train_steps': 1, 'steps': 1},
    {'beta_start': 0.0, 'beta_end': 0.0},
    {'beta_end': float('nan')},
    {'beta_end': 1.5},
    {'beta_start': -0.1},
    {'beta_start': 0.0, 'prediction': 'data'},
  ],
)
def test_schedules_that_divide_by_zero_are_refused(changes):
  with pytest.raises(ValueError, match=r'must lie between 0 and 1'):
    ZeroSNRDiffusion(**changes)
  names = {'train_steps': 'num_train_timesteps', 'prediction': 'prediction_type'}
  theirs = {names.get(k, k): v for k, v in changes.items() if k != 'steps'}
  if theirs.get('prediction_type'):
    theirs['prediction_type'] = 'sample'
  with pytest.raises(ValueError, match=r'must lie between 0 and 1'):
    ZeroSNRScheduler(**theirs)


@pytest.mark.parametrize('sigma_min', [1.0, -0.5, float('nan')])
def test_a_path_without_noise_to_begin_with_is_refused(sigma_min):
  with pytest.raises(ValueError, match='sigma_min must be 0 to below 1'):
    FlowMatching(sigma_min=sigma_min)
  with pytest.raises(ValueError, match='sigma_min must be 0 to below 1'):
    FlowMatchingScheduler(sigma_min=sigma_min)
