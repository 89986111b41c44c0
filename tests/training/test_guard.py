"""Skipped steps change nothing; other losses are compared with those before."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.mean_task import Mean, settings, stepped
from ttm_jax.training import spike_guard
from ttm_jax.training.loop import train


def judged(losses, spike=0.0, norms=None):
  """Return for each loss whether its step counts, and the final statistics."""
  state, good = spike_guard.create(), []
  judge = jax.jit(spike_guard.judge, static_argnums=3)
  for i, loss in enumerate(losses):
    norm = 1.0 if norms is None else norms[i]
    counts, state = judge(state, jnp.float32(loss), jnp.float32(norm), spike)
    good.append(bool(counts))
  return good, state


def test_the_running_mean_and_deviation():
  losses = np.random.default_rng(0).uniform(1, 3, 400)
  good, state = judged(losses)
  assert all(good) and int(state.counted) == 400 and int(state.skipped) == 0
  mean = deviation = 0.0
  for i, loss in enumerate(losses):
    rate = 1 / (1 + min(i, spike_guard.MEMORY - 1))
    deviation += rate * (abs(loss - mean) - deviation) if i else 0.0
    mean += rate * (loss - mean)
  np.testing.assert_allclose([state.mean, state.deviation], [mean, deviation], rtol=1e-4)
  assert abs(mean - 2) < 0.2 and abs(deviation - 0.5) < 0.1


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_what_is_no_number_does_not_count(bad):
  good, state = judged([1, bad, 2, bad, bad])
  assert good == [True, False, True, False, False]
  assert [int(x) for x in (state.counted, state.skipped, state.in_row)] == [2, 3, 2]
  assert float(state.mean) == 1.5
  good, _ = judged([1, 1, 1], norms=[1, bad, 1])
  assert good == [True, False, True]


def test_spikes():
  usual = list(np.random.default_rng(0).uniform(1, 3, spike_guard.MEMORY))
  # Its deviation from 2 is .5 on average.
  good, state = judged([*usual, 6.0, 8.0, 2.0, 100.0], spike=10.0)
  assert good[spike_guard.MEMORY :] == [True, False, True, False]
  assert float(state.mean) < 2.3 and int(state.skipped) == 2
  assert all(judged([*usual, 100.0])[0])
  # No step is a spike at first, nor is a small change of nearly constant losses.
  assert all(judged([1e3, 1, 1e3, *usual[:50], 100.0], spike=10.0)[0])
  good, _ = judged([*[1.0] * spike_guard.MEMORY, 1.05, 1.2], spike=10.0)
  assert good[-2:] == [True, False]


def test_hard_samples_do_not_stay_spikes():
  """Half of the losses are far from the other half, as when a small dataset is nearly learned."""
  rng = np.random.default_rng(0)
  usual = list(rng.uniform(0.9, 1.1, spike_guard.MEMORY))
  later = list(np.where(rng.random(400) < 0.5, rng.uniform(0.9, 1.1, 400), 5.0))
  good, state = judged([*usual, *later], spike=10.0)
  assert 0 < int(state.skipped) < 40 and all(good[-200:])
  # A diverging run is ended before its losses become the usual ones.
  good, _ = judged([*usual, *[20.0] * 20], spike=10.0)
  assert not any(good[spike_guard.MEMORY :])


@pytest.mark.parametrize('parts', [1, 2])
def test_a_skipped_step_changes_no_bit(parts):
  optimizer = optax.adamw(0.1)
  before, _ = stepped(Mean(), parts, optimizer, steps=3)
  after, metrics = stepped(Mean(poisoned=(3,)), parts, optimizer, steps=4)
  assert int(after.step) == 4 and int(before.step) == 3
  for name in ('params', 'ema', 'optimizer'):
    jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
  assert all(float(total) == float(count) == 0 for total, count in metrics.values())


def test_a_resumed_run_judges_as_an_undisturbed_one(tmp_path):
  # The counts of skipped steps and the mean of the loss survive a restart.
  def config(steps):
    return settings(train__steps=steps, optimizer__schedule='constant')

  objective = Mean(poisoned=(2, 6))
  whole = train(config(8), objective, tmp_path / 'whole')
  train(config(4), objective, tmp_path / 'parts')
  parts = train(config(8), objective, tmp_path / 'parts')
  assert int(parts.guard.skipped) == 2
  jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_each_kind_of_batch_has_its_own_usual_loss():
  """Rare batches of a higher loss are no spikes, and their own spikes are found."""
  rng = np.random.default_rng(0)
  judge = jax.jit(spike_guard.judge, static_argnums=(3, 4))
  alone, both = spike_guard.create(), spike_guard.create(2)
  good: dict[str, list[bool]] = {'alone': [], 'both': []}
  for step in range(4000):
    kind = int(step % 20 == 0)
    loss = jnp.float32((1.5 if kind else 1.0) + 0.005 * rng.normal())
    counts, alone = judge(alone, loss, jnp.float32(1), 5.0)
    good['alone'].append(bool(counts))
    counts, both = judge(both, loss, jnp.float32(1), 5.0, kind)
    good['both'].append(bool(counts))
  assert not any(good['alone'][200::20]) and all(good['both'])
  np.testing.assert_allclose(both.mean, [1.0, 1.5], atol=0.01)
  np.testing.assert_array_equal(both.counted, [3800, 200])
  counts, after = judge(both, jnp.float32(1.5), jnp.float32(1), 5.0, 0)
  assert not counts and (int(after.skipped), int(after.in_row)) == (1, 1)
  np.testing.assert_array_equal(after.counted, both.counted)
