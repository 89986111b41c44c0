"""Runs that are killed or told to stop, and resumed by the same command.

Three times killed, twice told to stop: each time the rest equals, bit for bit, the uninterrupted
run of the fixture `stage1`.
"""

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.helpers import cli
from ttm_jax.training import loop
from ttm_jax.training.sources import read_parameters

LIMIT = 240  # Seconds.


def training_lines(run: Path) -> list[dict]:
  """Return the lines of training metrics, including those that a resumed run logged twice."""
  path = run / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  # A line that is just being written may be read in part.
  lines = [line for line in lines if line.endswith('\n')]
  return [line for line in map(json.loads, lines) if 'train/loss' in line]


def logged(run: Path) -> int:
  """Return the last logged step."""
  lines = training_lines(run)
  return lines[-1]['step'] if lines else 0


def whole(run: Path) -> list[int]:
  """Return the steps of the complete checkpoints, in order."""
  folder = run / 'checkpoints'
  return (
    sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []
  )


def half(run: Path) -> list[str]:
  """Return the checkpoints that are being written."""
  return [p.name for p in (run / 'checkpoints').glob('*tmp*')]


# The moments at which the run is killed, in this order.
MOMENTS = {
  'during steps': lambda run: logged(run) >= 5 and not whole(run),
  'while a checkpoint is written': lambda run: whole(run) and half(run),
  'between checkpoints': lambda run: logged(run) > whole(run)[-1] >= 60 and not half(run),
}


def kill_when(process: subprocess.Popen, moment, run: Path) -> None:
  """Kill a process at a moment; it is stopped while the condition is checked again."""
  end = time.monotonic() + LIMIT
  while True:
    assert process.poll() is None, 'the run ended before the moment came'
    assert time.monotonic() < end
    if moment(run):
      process.send_signal(signal.SIGSTOP)
      time.sleep(0.01)
      if moment(run):
        process.kill()
        process.wait()
        return
      process.send_signal(signal.SIGCONT)
    time.sleep(0.001)


@pytest.fixture(scope='module')
def killed(stage1_command, tmp_path_factory):
  """A run killed three times and resumed; for each part its first line and its files."""
  run = tmp_path_factory.mktemp('killed') / 'run'
  command = cli.command(*stage1_command(run))
  parts = []
  for moment in (*MOMENTS.values(), None):
    found = {'lines': len(training_lines(run)), 'whole': whole(run)}
    process = subprocess.Popen(command, cwd=cli.ROOT, stderr=subprocess.PIPE, text=True)
    if moment is None:
      _, found['err'] = process.communicate(timeout=LIMIT)
      found['code'] = process.returncode
    else:
      kill_when(process, moment, run)
      found['half'] = half(run)
    parts.append(found)
  return run, parts


def same_as(run: Path, undisturbed: Path) -> None:
  """Assert that each logged step, and the end, is bit-identical."""
  expected = {line['step']: line for line in training_lines(undisturbed)}
  measured = ('train/loss', 'train/grad_norm')
  for line in training_lines(run):
    assert [line[k] for k in measured] == [expected[line['step']][k] for k in measured], line
  jax.tree.map(np.testing.assert_array_equal, read_parameters(run), read_parameters(undisturbed))


@pytest.mark.parametrize('part', [1, 2, 3], ids=MOMENTS)
def test_a_killed_run_goes_on_bit_by_bit(killed, stage1, part):
  run, parts = killed
  lines = training_lines(run)
  begin = parts[part]['lines']
  last_whole = parts[part]['whole'][-1] if parts[part]['whole'] else 0
  # It was interrupted as intended: steps were lost, and half a checkpoint in the second case.
  assert lines[begin - 1]['step'] > last_whole or parts[part - 1]['half']
  assert bool(parts[part - 1]['half']) == (part == 2)
  assert lines[begin]['step'] == last_whole + 1
  following = [line['train/loss'] for line in lines[begin : begin + 20]]
  expected = [line['train/loss'] for line in training_lines(stage1)][last_whole : last_whole + 20]
  assert following == expected and len(following) == 20


def test_a_killed_run_ends_as_if_nothing_had_been(killed, stage1):
  run, parts = killed
  assert parts[-1]['code'] == 0, parts[-1]['err']
  assert f'continues after step {parts[-1]["whole"][-1]}' in parts[-1]['err']
  assert logged(run) == 100 and whole(run)[-1] == 100
  same_as(run, stage1)
  assert not half(run), 'what a killed process left is cleared away'


def test_signals_save_and_the_next_step_follows(stage1_command, stage1, tmp_path):
  run = tmp_path / 'run'
  for number, after in ((signal.SIGTERM, 10), (signal.SIGINT, 45)):
    process = cli.start(*stage1_command(run))
    end = time.monotonic() + LIMIT
    while logged(run) < after and process.running and time.monotonic() < end:
      time.sleep(0.002)
    os.kill(process.pid, number)
    ended = process.wait()
    assert ended.code == 0, ended.err
    last = logged(run)
    assert f'stopped by signal after step {last}; the same command continues' in ended.err
    assert whole(run)[-1] == last and after <= last < 100
  ended = cli.run(*stage1_command(run))
  assert ended.code == 0, ended.err
  assert [line['step'] for line in training_lines(run)] == list(range(1, 101))
  same_as(run, stage1)


def poison() -> None:
  """In a process that will train: put NaN into its 25th to 28th batch."""
  place, count = loop.to_device, itertools.count(1)

  def poisoned(batch, sharding):
    if next(count) in range(25, 29):
      batch['trajectory'][0, 0, 0, 0, 0] = np.nan
    return place(batch, sharding)

  loop.to_device = poisoned


def test_what_is_no_number_ends_the_run(stage1_command, tmp_path):
  run = tmp_path / 'run'
  command = [*stage1_command(run), '--config.train.skip_limit=3']
  ended = cli.run(*command, before=poison)
  assert ended.code == 3
  assert ended.err.splitlines()[-1] == (
    'error: the last 3 steps up to 27 were skipped: loss or gradients are not finite, or the loss'
    f' is far beyond the usual; last good checkpoint: {run}/checkpoints/20. Lower'
    ' --config.optimizer.learning_rate or look at the data of these steps'
  )
  assert 'Traceback' not in ended.err
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(read_parameters(run)))
