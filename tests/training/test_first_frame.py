"""The given first frame is treated alike in training and sampling.

It is given as channels, without noise, or as channels and the origin of a difference.

Fine-tuned image-to-video models drift if the loss counts noise on the given frame, or if training
and sampling give it differently. These tests see what the network gets and what the loss counts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.helpers import tiny
from ttm_jax.conditioning import whole_latents
from ttm_jax.data.batch import to_batch
from ttm_jax.errors import InputError
from ttm_jax.presets import model_config
from ttm_jax.training import denoising, runs
from ttm_jax.training.denoising import Denoising

# The channels of the visual condition, as multiples of those of the latents, and the latents of the
# clean frame.
TASKS = {
  'ti2v_wan': {'concat': 1, 'clean': 0, 'frame': 'first_frame'},
  'demo_wan_stage1': {'concat': 2, 'clean': 1, 'frame': 'first_mask'},
  'demo_wan_stage2': {'concat': 2, 'clean': 1, 'frame': 'first_frame'},
}


class Recorder:
  """A network that stores its inputs and returns a constant, plus `noise` in the first frame."""

  def __init__(self, noise=0.0):
    self.noise, self.seen = noise, []

  def __call__(self, x_t, t, condition):
    self.seen.append((x_t, t, condition))
    return jnp.ones_like(x_t).at[:, 0].add(self.noise)


@pytest.fixture(scope='module')
def objective(latents_for):
  """Return the objective of a configuration with a kind of first frame, and a batch."""

  def make(name, first_frame):
    config = tiny.shrunk(name, latents_for('wan'), first_frame=first_frame, train__dropout=0.0)
    config.sample.update({'visual_scale': 1.0, 'text_scale': 1.0})
    made = Denoising(config)
    return made, jax.tree.map(jnp.asarray, next(made.batches('train', 0)))

  return make


@pytest.mark.parametrize('name', TASKS)
def test_number_of_channels(name, latents_for):
  for kind, like in (('concat', 'concat'), ('clean', 'clean'), ('change', 'concat')):
    sizes = model_config(tiny.shrunk(name, latents_for('wan'), first_frame=kind))
    assert sizes.visual_channels == TASKS[name][like] * tiny.CHANNELS


@pytest.mark.parametrize('name', TASKS)
def test_a_clean_frame_is_never_noised(name, objective):
  made, arrays = objective(name, 'clean')
  batch = to_batch(arrays, ['words'], 'box', jax.random.key(0))
  given = getattr(batch, TASKS[name]['frame'])[:, :1]
  training, sampling = Recorder(), Recorder()
  with jax.disable_jit():
    made.loss(training, arrays, jax.random.key(1))
    _, condition = made.denoiser.known(arrays, jax.random.key(2))
    latents = made.denoiser.sample(
      sampling, condition, jax.random.key(3), made.context.latent_shape
    )
  assert len(training.seen) == 1 and len(sampling.seen) == made.denoiser.process.steps
  for x_t, t, _ in (*training.seen, *sampling.seen):
    np.testing.assert_array_equal(x_t[:, :1], given)
    assert t.shape == x_t.shape[:2]
    assert (t[:, 0] == 0).all() and (t[:, 1:] > 0).all()
    np.testing.assert_array_equal(t[:, 1:], np.broadcast_to(t[:, 1:2], t[:, 1:].shape))
  np.testing.assert_array_equal(latents[:, :1], given)  # It comes out as it was given.
  # The network of training and that of sampling get the same conditions.
  one, two = training.seen[0][2], sampling.seen[0][2]
  assert jax.tree.structure(one) == jax.tree.structure(two)
  assert jax.tree.all(jax.tree.map(np.array_equal, one, two))


@pytest.mark.parametrize('name', TASKS)
def test_the_loss_does_not_count_a_clean_frame(name, objective):
  losses = {}
  for kind in ('clean', 'concat'):
    made, arrays = objective(name, kind)
    losses[kind] = [
      float(made.loss(Recorder(noise), arrays, jax.random.key(0))[0]) for noise in (0.0, 5.0)
    ]
  assert losses['clean'][0] == losses['clean'][1]
  assert losses['concat'][1] > losses['concat'][0] + 1  # There, all frames are generated.


@pytest.mark.parametrize('name', TASKS)
def test_channels_are_the_same_in_training_and_sampling(name, objective):
  made, arrays = objective(name, 'concat')
  training, sampling = Recorder(), Recorder()
  with jax.disable_jit():
    made.loss(training, arrays, jax.random.key(1))
    _, condition = made.denoiser.known(arrays, jax.random.key(2))
    made.denoiser.sample(sampling, condition, jax.random.key(3), made.context.latent_shape)
  still = np.asarray(arrays['first_frame'], np.float32)
  for x_t, t, condition in (*training.seen, *sampling.seen):
    assert t.shape == x_t.shape[:1]  # One time for all frames.
    assert condition.clean_frame is None
    first = condition.visual[..., : tiny.CHANNELS]
    np.testing.assert_array_equal(first, np.broadcast_to(still, first.shape))
    np.testing.assert_array_equal(condition.visual, training.seen[0][2].visual)


@pytest.mark.parametrize('name', TASKS)
def test_a_change_is_generated_as_the_difference_from_the_first_frame(name, objective):
  made, arrays = objective(name, 'change')
  denoiser, key = made.denoiser, jax.random.key(0)
  target, condition = denoiser.known(arrays, key)
  batch = to_batch(arrays, ['words'], 'box', key)
  wanted, first = (getattr(batch, n) for n in (denoiser.task.target, TASKS[name]['frame']))
  np.testing.assert_array_equal(target, wanted - first)
  np.testing.assert_allclose(whole_latents(target, condition), wanted, atol=1e-6)
  with jax.disable_jit():
    state = denoiser.begin(condition, key, made.context.latent_shape)
    latents = denoiser.latents(condition, state)
    _, truth = made.generate(Recorder(), arrays, key)
  np.testing.assert_allclose(latents, state.solver[0] + first, atol=1e-6)
  np.testing.assert_allclose(truth, wanted[: made.config.sample.count], atol=1e-6)


def test_a_change_has_the_channels_of_concat(objective):
  arrays = objective('demo_wan_stage2', 'concat')[1]
  found = {}
  for kind in ('concat', 'change'):
    _, found[kind] = objective('demo_wan_stage2', kind)[0].denoiser.known(arrays, jax.random.key(0))
  np.testing.assert_array_equal(found['concat'].visual, found['change'].visual)
  assert found['concat'].origin is None and found['change'].clean_frame is None


def test_a_network_that_predicts_zero_repeats_the_first_frame(latents_for):
  config = tiny.shrunk('demo_stage2', latents_for('dit'), first_frame='change')
  made = Denoising(config)
  denoiser = made.denoiser
  arrays = jax.tree.map(jnp.asarray, next(made.batches('train', 0)))
  _, condition = denoiser.known(arrays, jax.random.key(0))
  shape = made.context.latent_shape
  latents = denoiser.sample(denoiser.build(0), condition, jax.random.key(1), shape)
  still = np.broadcast_to(arrays['first_frame'], latents.shape)
  np.testing.assert_allclose(latents, still, atol=1e-4)  # Noise of sigma_min remains.


def test_guidance_keeps_the_clean_frame(objective):
  made, arrays = objective('demo_wan_stage2', 'clean')
  made.denoiser.config.sample.update({'visual_scale': 1.5, 'text_scale': 3.0})
  network = Recorder()
  with jax.disable_jit():
    _, condition = made.denoiser.known(arrays, jax.random.key(2))
    made.denoiser.sample(network, condition, jax.random.key(3), made.context.latent_shape)
  x_t, t, stacked = network.seen[0]
  count = len(condition.clean_frame)
  assert len(x_t) == 3 * count and (t[:, 0] == 0).all()
  for part in range(3):
    rows = slice(part * count, (part + 1) * count)
    np.testing.assert_array_equal(x_t[rows, :1], condition.clean_frame)
  assert np.abs(stacked.visual[:count]).max() > 0 == np.abs(stacked.visual[2 * count :]).max()


@pytest.mark.parametrize(
  'task, ours, theirs, refused',
  [
    ('motion_to_video', 'change', 'concat', True),
    ('motion_to_video', 'concat', 'change', True),
    ('image_to_video', 'change', 'concat', True),
    ('motion_to_video', 'clean', 'concat', True),
    ('image_to_video', 'clean', 'concat', False),
    ('text_to_video', 'change', 'concat', False),
    ('motion_to_video', 'change', 'change', False),
  ],
)
def test_what_a_run_may_start_from(objective, task, ours, theirs, refused, monkeypatch):
  made, _ = objective('demo_wan_stage2', ours)
  other = made.config.copy_and_resolve_references()
  other.update({'task': task, 'first_frame': theirs})
  monkeypatch.setattr(denoising, 'read_config', lambda run: other)
  monkeypatch.setattr(denoising, 'of_run', lambda run: run)
  monkeypatch.setattr(denoising.Context, 'load', lambda run: made.context)
  if not refused:
    assert made.source('runs/other') == 'runs/other'
    return
  said = f"config.first_frame is '{ours}', and run runs/other was trained with '{theirs}'"
  with pytest.raises(InputError, match=said):
    made.source('runs/other')


def test_runs_of_earlier_versions_resume(tmp_path):
  """They have no key first_frame."""
  config = tiny.shrunk('demo_stage1')
  earlier = config.copy_and_resolve_references()
  del earlier.first_frame
  runs.write_config(epath.Path(tmp_path), earlier)
  runs.check_run(epath.Path(tmp_path), config)
  config.first_frame = 'change'
  with pytest.raises(InputError, match="first_frame is 'concat' there and 'change' here"):
    runs.check_run(epath.Path(tmp_path), config)


@pytest.mark.parametrize(
  'name, value, message',
  [
    ('demo_wan_stage1', 'noisy', r"first_frame must be one of \('concat', 'clean', 'change'\)"),
    ('demo_stage1', 'clean', "preset 'dit' has one time for all frames, so that it cannot take"),
  ],
)
def test_refused(name, value, message):
  config = tiny.shrunk(name)
  config.first_frame = value
  with pytest.raises(InputError, match=message):
    model_config(config)
