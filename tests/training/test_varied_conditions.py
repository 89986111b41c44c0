"""Training with the texts of other samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny
from ttm_jax import conditioning
from ttm_jax.conditioning import Condition, Objects, TokenMasks, Tokens
from ttm_jax.errors import InputError
from ttm_jax.training import runs, varied_conditions
from ttm_jax.training.denoising import Denoising


def condition(batch: int) -> Condition:
  """Return a condition in which every array of sample i is i."""

  def of(*shape: int) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(batch).reshape(-1, *[1] * len(shape)), (batch, *shape))

  def text() -> dict[str, Tokens]:
    return {'words': Tokens(of(3), of(3))}

  masks = TokenMasks(of(2, 2, 2), of(2, 2, 2))
  return Condition(text(), of(2, 2, 2, 4), Objects((masks,), text()), scales=of(2))


def numbers(tree) -> np.ndarray:
  """Return the number of the sample of each array, [arrays, B]."""
  return np.stack([np.asarray(x).reshape(len(x), -1)[:, 0] for x in jax.tree.leaves(tree)])


def test_all_texts_of_a_sample_come_from_the_one_before():
  made = conditioning.exchange_texts(jax.random.key(0), condition(8), 1.0)
  assert (numbers([made.text, made.objects.prompts]) == np.roll(np.arange(8), 1)).all()
  assert (numbers([made.visual, made.objects.token_masks, made.scales]) == np.arange(8)).all()


def test_the_rate_is_the_share_of_samples_with_other_texts():
  made = conditioning.exchange_texts(jax.random.key(1), condition(4_000), 0.3)
  found = numbers([made.text, made.objects.prompts])
  assert (found == found[0]).all()  # Caption and prompts of an object come from the same sample.
  assert (found[0] != np.arange(4_000)).mean() == pytest.approx(0.3, abs=0.03)


def test_a_condition_without_objects_stays_without():
  plain = condition(4).replace(objects=None)
  made = conditioning.exchange_texts(jax.random.key(0), plain, 1.0)
  assert made.objects is None and (numbers(made.text) == np.roll(np.arange(4), 1)).all()


def test_at_rate_zero_nothing_changes():
  config = tiny.shipped('stage2_dit').train
  config.dropout = 0.0
  made = varied_conditions.vary(jax.random.key(0), condition(8), condition(1), config)
  assert (numbers(made) == np.arange(8)).all()


def test_the_loss_takes_texts_of_other_samples(latents_for):
  changes = {'train__exchanged_texts': 1.0, 'train__dropout': 0.0}
  made = Denoising(tiny.shrunk('demo_stage2', latents_for('dit'), **changes))
  arrays = jax.tree.map(jnp.asarray, next(made.batches('train', 0)))
  _, own = made.denoiser.known(arrays, jax.random.key(0))
  network = Recorder()
  with jax.disable_jit():
    made.loss(network, arrays, jax.random.key(0))
  (seen,) = network.seen
  for mine, given in ((own.text, seen.text), (own.objects.prompts, seen.objects.prompts)):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(jnp.roll(x, 1, axis=0), y), mine, given)
  np.testing.assert_array_equal(own.visual, seen.visual)


class Recorder:
  """A network that predicts zero and records the conditions that it is given."""

  def __init__(self):
    self.seen: list[Condition] = []

  def __call__(self, x_t, t, condition):
    self.seen.append(condition)
    return jnp.zeros_like(x_t)


@pytest.mark.parametrize('rate', [-0.1, 1.5])
def test_the_rate_is_a_probability(rate, latents_for):
  config = tiny.shrunk('demo_stage2', latents_for('dit'), train__exchanged_texts=rate)
  with pytest.raises(InputError, match='exchanged_texts must be a probability, 0 to 1'):
    Denoising(config)


def test_a_batch_needs_another_sample(latents_for):
  changes = {'data__batch_size': 2, 'train__accumulate': 2, 'train__exchanged_texts': 0.5}
  config = tiny.shrunk('demo_stage2', latents_for('dit'), **changes)
  with pytest.raises(InputError, match='no texts of another one'):
    Denoising(config)


@pytest.mark.parametrize('name', ['demo_stage1', 'demo_ti2v'])
def test_a_task_without_trajectory_needs_its_own_texts(name, latents_for):
  config = tiny.shrunk(name, latents_for('dit'), train__exchanged_texts=0.5)
  with pytest.raises(InputError, match='is given no trajectory'):
    Denoising(config)


def test_runs_of_earlier_versions_resume():
  config = tiny.shipped('stage2_dit')
  older = config.copy_and_resolve_references()
  del older.train['exchanged_texts']
  assert runs._bound(older) == runs._bound(config)
