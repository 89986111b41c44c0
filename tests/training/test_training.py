"""The loop, its step and its optimizer on a network of three numbers; logs of a real run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import cli, tiny
from tests.helpers.mean_task import Mean, rows, settings, stepped
from ttm_jax.errors import InputError
from ttm_jax.report.results import read_metrics
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.loop import train
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.random_streams import stream
from ttm_jax.training.spike_guard import NotFinite


def held_out_losses(run):
  """Return the validation loss by step."""
  key = 'validation/loss'
  return {line['step']: line[key] for line in read_metrics(run) if key in line}


@pytest.mark.parametrize('parts', [2, 4])
def test_accumulated_parts_are_one_batch(parts):
  whole, measured = stepped(Mean(), 1, optax.sgd(0.1))
  cut, of_parts = stepped(Mean(), parts, optax.sgd(0.1))
  gradient = -2 / 3 * rows(0).mean(0)
  np.testing.assert_allclose(whole.params['w'], -0.1 * gradient, rtol=1e-5)
  np.testing.assert_allclose(cut.params['w'], whole.params['w'], rtol=1e-5)
  for name, (total, count) in measured.items():
    np.testing.assert_allclose(of_parts[name][0] / of_parts[name][1], total / count, rtol=1e-5)


def test_each_part_draws_its_own_noise():
  key = stream(jax.random.key(0), 'train', 0)
  drawn = [jax.random.normal(jax.random.fold_in(key, i), (3,)) for i in range(2)]
  state, _ = stepped(Mean(noise=1.0), 2, optax.sgd(1.0))
  expected = 2 / 3 * rows(0).mean(0) - np.mean(drawn, axis=0)
  np.testing.assert_allclose(state.params['w'], expected, rtol=1e-5)


def test_each_step_draws_its_own_noise():
  # Without data the path of w is the sum of the random draws.
  state, _ = stepped(Mean(noise=1.0), 1, optax.sgd(1e-3), steps=2)
  draws = [jax.random.normal(stream(jax.random.key(0), 'train', s), (3,)) for s in range(2)]
  first = 1e-3 * (2 / 3 * rows(0).mean(0) - draws[0])
  second = first - 1e-3 * (2 / 3 * (first - rows(1).mean(0)) + draws[1])
  np.testing.assert_allclose(state.params['w'], second, rtol=1e-4)


def test_the_moving_average_forgets_the_start_first():
  average = np.zeros(3)
  for step in range(5):
    state, _ = stepped(Mean(), 1, optax.sgd(0.1), steps=step + 1)
    decay = min(0.3, (1 + step) / (10 + step))
    average = decay * average + (1 - decay) * state.params['w']
  state, _ = stepped(Mean(), 1, optax.sgd(0.1), steps=5, ema=0.3)
  np.testing.assert_allclose(state.ema['w'], average, rtol=1e-5)


@pytest.mark.parametrize('schedule', ['constant', 'cosine', 'linear'])
def test_rates(schedule):
  config = settings(optimizer__schedule=schedule, optimizer__warmup=4).optimizer
  # Without momentum, an update of Adam is the learning rate times the sign of the gradient.
  config.update({'b1': 0.0, 'b2': 0.0, 'eps': 1e-12, 'weight_decay': 0.0})
  optimizer = make_optimizer(config, 12)
  params = {'w': jnp.zeros(3)}
  state, rates = optimizer.init(params), []
  for _ in range(13):
    updates, state = optimizer.update({'w': jnp.ones(3)}, state, params)
    rates.append(-float(updates['w'][0]))
  done = np.arange(9) / 8
  after = {'constant': done**0, 'cosine': (1 + np.cos(np.pi * done)) / 2, 'linear': 1 - done}
  expected = 0.1 * np.concatenate([np.arange(4) / 4, after[schedule]])
  np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_an_unknown_schedule_is_named():
  with pytest.raises(InputError, match=r"optimizer\.schedule must be .* got 'exponential'"):
    make_optimizer(settings(optimizer__schedule='exponential').optimizer, 10)


def test_matrices_decay_and_nothing_else():
  config = settings(optimizer__weight_decay=0.5, optimizer__warmup=0).optimizer
  optimizer = make_optimizer(config, 10)
  params = {
    'blocks': {'kernel': jnp.ones((2, 3, 3)), 'scale': jnp.ones((2, 3)), 'gate': jnp.ones(2)},
    'norm': {'scale': jnp.ones(3)},
    'head': {'kernel': jnp.ones((3, 3)), 'bias': jnp.ones(3)},
  }
  still = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(still, optimizer.init(params), params)
  moved = {jax.tree_util.keystr(p) for p, u in jax.tree.leaves_with_path(updates) if u.any()}
  assert moved == {"['blocks']['kernel']", "['head']['kernel']"}


@pytest.mark.parametrize('known', [True, False])
def test_gradients_are_clipped_to_a_norm(known):
  config = settings(optimizer__clip=1.0, optimizer__warmup=0, optimizer__muon_rate=0.0).optimizer
  # With b1 = 0 the first moment is the clipped gradient.
  config.update({'b1': 0.0})
  optimizer = make_optimizer(config, 10)
  for size, expected in ((0.1, 0.1), (10.0, 0.5)):
    grads = {'w': jnp.full((2, 2), size)}
    norm = {'norm': optax.global_norm(grads)} if known else {}
    _, state = optimizer.update(grads, optimizer.init(grads), grads, **norm)
    moments = optax.tree.get(state, 'mu')
    np.testing.assert_allclose(moments['w'], expected, rtol=1e-6)


def test_held_out_loss_samples_and_the_end_are_of_the_average(tmp_path):
  objective = Mean()
  state = train(
    settings(train__steps=6, train__evaluate_every=3, train__sample_every=3), objective, tmp_path
  )
  average, current = np.asarray(state.ema['w']), np.asarray(state.params['w'])
  assert np.abs(average - current).max() > 0.01
  np.testing.assert_array_equal(objective.sampled[-1], average)
  np.testing.assert_array_equal(objective.finished, [average])
  np.testing.assert_array_equal(objective.sampled[0], np.zeros(3))
  names = sorted(p.name for p in (tmp_path / 'samples').iterdir())
  assert names == ['newest.gif', 'step_0000000.png', 'step_0000003.png', 'step_0000006.png']
  found = {
    m['step']: m['validation/loss'] for m in read_metrics(tmp_path) if 'validation/loss' in m
  }
  held_out = rows(0) + 100
  expected = {0: np.mean(held_out**2), 6: np.mean((average - held_out) ** 2)}
  assert sorted(found) == [0, 3, 6]
  for step, loss in expected.items():
    np.testing.assert_allclose(found[step], loss, rtol=1e-6)


def test_logged_losses_are_means_over_the_steps_between(tmp_path):
  state = train(settings(train__steps=5, train__log_every=3), Mean(), tmp_path / 'sparse')
  every = train(settings(train__steps=5, train__log_every=1), Mean(), tmp_path / 'every')
  np.testing.assert_array_equal(state.params['w'], every.params['w'])
  sparse = {m['step']: m['train/loss'] for m in read_metrics(tmp_path / 'sparse')}
  losses = [m['train/loss'] for m in read_metrics(tmp_path / 'every')]
  assert sorted(sparse) == [3, 5]
  np.testing.assert_allclose(sparse[3], np.mean(losses[:3]), rtol=1e-6)
  np.testing.assert_allclose(sparse[5], np.mean(losses[3:]), rtol=1e-6)


def test_a_batch_that_is_not_a_number_is_skipped(tmp_path):
  config = settings(train__steps=8, train__log_every=2)
  state = train(config, Mean(poisoned=(4,)), tmp_path)
  assert int(state.step) == 8 and int(state.guard.skipped) == 1 and int(state.guard.in_row) == 0
  logged = {m['step']: m for m in read_metrics(tmp_path)}
  assert [logged[s]['train/skipped'] for s in (2, 4, 6, 8)] == [0, 0, 1, 1]
  assert all(np.isfinite(logged[s]['train/loss']) for s in logged)


@pytest.mark.parametrize('log_every, ended, last', [(1, 6, 4), (4, 8, 6)])
def test_too_many_skipped_steps_end_the_run(tmp_path, log_every, ended, last):
  config = settings(
    train__steps=9, train__log_every=log_every, train__checkpoint_every=2, train__skip_limit=2
  )
  complaint = rf'steps up to {ended} were skipped: .*; last good checkpoint: {tmp_path}.*/{last}\.'
  with pytest.raises(NotFinite, match=complaint):
    train(config, Mean(poisoned=(4, 5, 6, 7, 8)), tmp_path)
  assert Checkpoints(tmp_path / 'checkpoints').latest() == last
  # With valid data the same command resumes and reaches the same result.
  mended = train(config, Mean(poisoned=(4, 5) if last == 6 else ()), tmp_path)
  sound = train(config, Mean(poisoned=(4, 5) if last == 6 else ()), tmp_path / 'sound')
  np.testing.assert_array_equal(mended.params['w'], sound.params['w'])


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path):
  # Each step counts, but one of them overflows float32.
  config = settings(
    train__steps=4, train__checkpoint_every=1, optimizer__weight_decay=0.0, optimizer__warmup=0
  )
  config.optimizer.learning_rate = 1e39
  with pytest.raises(NotFinite, match='a parameter is not finite after step 1: '):
    train(config, Mean(), tmp_path)
  assert Checkpoints(tmp_path / 'checkpoints').latest() is None


def test_the_batch_must_divide(tmp_path):
  with pytest.raises(InputError, match=r'batch_size 4 must be a multiple of 3: .*accumulate 3'):
    train(settings(train__accumulate=3), Mean(), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_old_checkpoints_go(tmp_path):
  changes = {'train__steps': 9, 'train__checkpoint_every': 1, 'train__keep_last': 2}
  train(settings(train__keep_every=4, **changes), Mean(), tmp_path)
  kept = {int(p.name) for p in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {4, 8, 9}


def test_a_real_run_tells_what_is_promised(stage2):
  training = [m for m in read_metrics(stage2) if 'train/loss' in m]
  assert [m['step'] for m in training] == list(range(1, 41))
  for line in training:
    buckets = [v for k, v in line.items() if k.startswith('train/loss_t')]
    assert min(buckets) * 0.999 < line['train/loss'] < max(buckets) * 1.001
    assert 0 <= line['train/data_wait'] <= 1
    assert min(line[f'train/{k}'] for k in ('samples_per_s', 'mfu', 'grad_norm')) > 0
  (events,) = (stage2 / 'tensorboard').iterdir()
  board = events.read_bytes()
  names = (b'train/loss', b'train/loss_t3of4', b'train/mfu', b'validation/loss')
  assert [name for name in names if name not in board] == []


@pytest.fixture(scope='module')
def learning(latents, tmp_path_factory):
  """Metrics of a run that generates whole frames.

  That of `stage2` generates the difference from the first frame. Before any training it repeats
  this frame, and 40 steps are too few to become better than that.
  """
  run = tmp_path_factory.mktemp('learning') / 'run'
  changes = {'train__steps': 40, 'train__evaluate_every': 20, 'train__sample_every': 40}
  changes |= {'train__metrics': ('psnr', 'foreground_iou'), 'first_frame': 'concat'}
  ended = cli.run(*tiny.train_command('demo_stage2', run, latents, **changes))
  assert ended.code == 0, ended.err
  return read_metrics(run)


def test_metrics_of_samples_are_logged(learning):
  found = [m for m in learning if 'validation/psnr' in m]
  assert [m['step'] for m in found] == [0, 40]
  assert 5 < found[0]['validation/psnr'] < found[1]['validation/psnr'] < 40
  assert all(0 <= m['validation/foreground_iou'] <= 1 for m in found)


def test_the_loss_of_fixed_held_out_clips_falls(learning):
  held_out = {m['step']: m['validation/loss'] for m in learning if 'validation/loss' in m}
  assert sorted(held_out) == [0, 20, 40]
  assert held_out[40] < 0.9 * held_out[0]
