"""The best checkpoint by a metric is kept, and read by whoever uses the run."""

import numpy as np
import pytest

from tests.helpers.mean_task import EVERY, Mean, settings
from ttm_jax.errors import InputError
from ttm_jax.report.results import read_metrics
from ttm_jax.training import sources
from ttm_jax.training.best import Best
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.loop import train


class Passing(Mean):
  """Training passes the target of validation, so that the best step is one in the middle.

  A network that learns the mean of the data, about 2, is validated against data around .5.
  """

  def validation(self, count):
    return [(1.0, [{'x': np.full((4, 3), 0.5, np.float32)}])]


def config(**changes):
  return settings(
    **{
      'train__steps': 12,
      'train__keep_last': 1,
      'train__keep_every': 0,
      'train__evaluate_every': 2,
      'train__sample_every': 0,
      'train__keep_best': 'loss',
      **EVERY,
      **changes,
    }
  )


def validation_losses(run):
  """Return the validation loss of each step with a checkpoint."""
  lines = (line for line in read_metrics(run) if line['step'] > 0)
  return {m['step']: m['validation/loss'] for m in lines if 'validation/loss' in m}


def test_the_step_of_the_lowest_validation_loss_is_kept_and_read(tmp_path):
  train(config(), Passing(), tmp_path, best=Best('loss'))
  losses = validation_losses(tmp_path)
  best = min(losses, key=losses.get)
  assert 2 < best < 12
  checkpoints = Checkpoints(tmp_path / 'checkpoints', read_only=True)
  assert checkpoints.steps() == [best, 12]
  assert checkpoints.best() == best and checkpoints.latest() == 12
  assert sources.of_run(tmp_path).step == best
  whole = tmp_path / 'whole'
  train(config(train__steps=best), Passing(), whole, best=Best('loss'))
  found, wanted = sources.read_parameters(tmp_path), sources.read_parameters(whole)
  np.testing.assert_array_equal(found['w'], wanted['w'])


def test_a_resumed_run_remembers_the_best_step(tmp_path):
  train(config(), Passing(), tmp_path / 'whole', best=Best('loss'))
  for steps in (8, 12):
    train(config(train__steps=steps), Passing(), tmp_path / 'parts', best=Best('loss'))
  whole, parts = (
    Checkpoints(tmp_path / name / 'checkpoints', read_only=True) for name in ('whole', 'parts')
  )
  assert whole.steps() == parts.steps() and whole.best() == parts.best()


def test_a_metric_of_samples_that_grows(tmp_path):
  values = iter([1.0, 3.0, float('nan'), 2.0])
  objective = Passing()
  objective.label_maps = lambda arrays: np.zeros((1, 2, 8, 8), np.uint8)
  two = np.zeros((1, 2, 8, 8, 3), np.uint8)
  objective.samples = lambda model, arrays, key: {'truth': two, 'sample': two}
  changed = config(
    train__steps=6, train__sample_every=2, train__metrics=('psnr',), train__keep_best='psnr'
  )
  score = lambda *videos: {'psnr': next(values)}  # noqa: E731
  train(changed, objective, tmp_path, score=score, best=Best('psnr', higher_is_better=True))
  # The first value is of step 0; the checkpoint of step 4 has no rating.
  checkpoints = Checkpoints(tmp_path / 'checkpoints', read_only=True)
  assert checkpoints.steps() == [2, 6] and checkpoints.best() == 2


def test_without_it_the_newest_is_read(tmp_path):
  train(config(train__keep_best=''), Passing(), tmp_path)
  checkpoints = Checkpoints(tmp_path / 'checkpoints', read_only=True)
  assert checkpoints.steps() == [12] and checkpoints.best() is None
  assert sources.of_run(tmp_path).step == 12


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'train__keep_best': 'psnr'},
      'keep_best is "psnr", which is not computed in this run: choose one of loss, or add it',
    ),
    (
      {'train__evaluate_every': 3},
      '"loss" is computed every 3 steps, and checkpoints are saved every 2: make'
      ' config.train.checkpoint_every a multiple of config.train.evaluate_every',
    ),
    (
      {'train__metrics': ('psnr',), 'train__keep_best': 'psnr', 'train__sample_every': 0},
      'a multiple of config.train.sample_every',
    ),
  ],
)
def test_a_metric_that_is_not_there_at_every_checkpoint(tmp_path, changes, message):
  with pytest.raises(InputError, match=message):
    train(config(**changes), Passing(), tmp_path)
  assert not (tmp_path / 'checkpoints').exists()
