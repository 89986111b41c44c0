"""Metrics of a run: values of a log line, also over restarts; traces; Weights & Biases."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.mean_task import Mean, settings
from ttm_jax.errors import InputError
from ttm_jax.report.results import read_metrics
from ttm_jax.training import telemetry
from ttm_jax.training.denoising import allowed_pairs
from ttm_jax.training.loop import train


def test_a_log_line(tmp_path):
  train(settings(train__steps=6, train__log_every=3), Mean(), tmp_path)
  first, second = read_metrics(tmp_path)
  for line in (first, second):
    p50, p90, p99 = (line[f'train/step_s_p{p}'] for p in telemetry.PERCENTILES)
    assert 0 < p50 <= p90 <= p99
    assert 0 <= line['train/data_wait'] <= 1 and 0 < line['train/goodput'] <= 1
    assert line['train/skipped'] == 0
    assert 'train/memory_gb' not in line  # CPUs do not report it.
  assert second['time'] >= first['time']
  # The three steps of the second line, without the wait between them.
  assert second['train/busy_s'] < second['time'] - first['time'] + 0.01
  assert second['train/step_s_p99'] <= second['train/busy_s']


def test_goodput_goes_over_restarts(tmp_path, monkeypatch):
  now = [1000.0]
  monkeypatch.setattr(telemetry.time, 'time', lambda: now[0])
  config = {'optimizer__schedule': 'constant', 'train__checkpoint_every': 2}
  train(settings(train__steps=2, **config), Mean(), tmp_path)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  # Seven seconds for the two steps in the checkpoint, and 50 for a lost one.
  told = [json.loads(line) for line in lines]
  told[0]['train/busy_s'], told[1]['train/busy_s'] = 3.0, 4.0
  lost = {'step': 3, 'time': 1.0, 'train/loss': 0.0, 'train/busy_s': 50.0}
  text = ''.join(json.dumps(line) + '\n' for line in (*told, lost))
  (tmp_path / 'metrics.jsonl').write_text(text + '{"step": 4, "train/lo')
  now[0] = 1100.0
  train(settings(train__steps=3, **config), Mean(), tmp_path)
  last = read_metrics(tmp_path)[-1]
  assert last['step'] == 3
  np.testing.assert_allclose(last['train/goodput'], (7 + last['train/busy_s']) / 100, rtol=1e-6)
  starts = [json.loads(line) for line in (tmp_path / 'starts.jsonl').read_text().splitlines()]
  assert [(s['time'], s['step'], s['devices']) for s in starts] == [(1000, 0, 1), (1100, 2, 1)]


def test_a_clock_that_is_set_back_does_no_harm(tmp_path, monkeypatch):
  times = iter(range(10_000, 0, -1))
  monkeypatch.setattr(telemetry.time, 'time', lambda: float(next(times)))
  train(settings(train__steps=2), Mean(), tmp_path)
  assert all(0 <= line['train/goodput'] <= 1 for line in read_metrics(tmp_path))


class Counting(Mean):
  """Reports the FLOPs of each batch itself."""

  def loss(self, model, arrays, key):
    loss, metrics = super().loss(model, arrays, key)
    return loss, metrics | {'gflops': (jnp.asarray(4 * 3.0), jnp.asarray(4.0))}


def test_mfu_counts_what_the_steps_computed(tmp_path, monkeypatch):
  monkeypatch.setattr(telemetry, 'peak_flops', lambda: 2e9)
  train(settings(train__steps=2, train__evaluate_every=2), Counting(), tmp_path / 'a')
  train(settings(train__steps=2), Mean(), tmp_path / 'b')
  for run, flops in ((tmp_path / 'a', 3e9), (tmp_path / 'b', Mean.flops_per_sample)):
    for line in read_metrics(run):
      assert not [key for key in line if 'gflops' in key]
      if 'train/mfu' in line:
        mfu = line['train/samples_per_s'] * flops / (2e9 * jax.device_count())
        np.testing.assert_allclose(line['train/mfu'], mfu, rtol=1e-5)


@pytest.mark.parametrize('by_frame', [False, True])
def test_allowed_pairs(by_frame):
  owners = np.random.default_rng(0).choice([0, 1, 3], (2, 3, 2, 4), p=[0.6, 0.3, 0.1])
  region = 1 << owners.astype(np.int32)
  expected = []
  for sample in region:
    parts = sample.reshape(3, -1) if by_frame else sample.reshape(1, -1)
    expected.append(np.mean([(x[:, None] & x[None, :] != 0).mean() for x in parts]))
  np.testing.assert_allclose(allowed_pairs(jnp.asarray(region), by_frame), expected, rtol=1e-6)


def test_memory_is_the_most_of_a_device(monkeypatch):
  stats = [{'peak_bytes_in_use': 3}, {'peak_bytes_in_use': 5}, None]
  devices = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
  monkeypatch.setattr(telemetry.jax, 'local_devices', lambda: devices)
  assert telemetry.most_memory() == 5
  monkeypatch.setattr(telemetry.jax, 'local_devices', lambda: devices[2:])
  assert telemetry.most_memory() is None


def test_a_trace_of_some_steps(tmp_path):
  train(settings(train__steps=4), Mean(), tmp_path, profile='2:3')
  (trace,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  assert b'Execute' in trace.read_bytes() and trace.stat().st_size > 1000


@pytest.mark.parametrize('steps', ['3', '3:2', '0:1', 'a:b', '1:2:3'])
def test_steps_to_trace_that_make_no_sense(tmp_path, steps):
  with pytest.raises(InputError, match=rf"--profile takes .* as N:M, got '{steps}'"):
    train(settings(train__steps=2), Mean(), tmp_path, profile=steps)


def test_weights_and_biases(tmp_path, monkeypatch):
  begun, logged, finished = [], [], []

  class Run:
    def log(self, values, step):
      logged.append((step, values))

    def finish(self):
      finished.append(True)

  fake = types.SimpleNamespace(init=lambda **options: begun.append(options) or Run())
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  config = {'optimizer__schedule': 'constant', 'job__wandb': 'motion'}
  for steps in (2, 3):
    train(settings(train__steps=steps, **config), Mean(), tmp_path / 'run')
  assert [step for step, _ in logged] == [1, 2, 3] and len(finished) == 2
  assert all('train/loss' in values for _, values in logged)
  first, second = begun
  assert first['project'] == 'motion' and first['name'] == 'run' and first['resume'] == 'allow'
  assert first['id'] == second['id'] and first['config']['train']['steps'] == 2


def test_weights_and_biases_is_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(InputError, match=r"needs the package wandb: pip install 'ttm_jax\[wandb\]'"):
    train(settings(train__steps=2, job__wandb='motion'), Mean(), tmp_path / 'run')
