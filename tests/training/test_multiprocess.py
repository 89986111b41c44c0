"""Two and four processes with a device each, and one process with two: the same run.

The processes find each other as on a cluster, by TTM_COORDINATOR, TTM_PROCESSES and TTM_PROCESS.
Parameters are sharded over the devices (fsdp), so no process has all of them. Some processes are
told to stop, or are killed. The same command then resumes the same run, bit by bit.
"""

import json
import os
import shutil
import signal
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx
from PIL import Image

from launch.local import environments, free_port
from tests.helpers import cli, tiny
from ttm_jax.codecs.folder import load_codec
from ttm_jax.errors import InputError
from ttm_jax.training.lock import exclusive
from ttm_jax.training.sources import read_parameters

STEPS = 12
LOST = 'tasks are unhealthy (stopped sending heartbeats):\n{}\n'  # JAX's message.
# With a constant learning rate, the program does not depend on the number of steps.
SPLIT = {
  'mesh__data': 1,
  'mesh__fsdp': 2,
  'model__layers': 1,
  'optimizer__schedule': 'constant',
  'train__checkpoint_every': 4,
}


def disturb() -> None:
  """In a process that will train: record what it puts on its devices, and signal itself.

  At the batch AT_BATCH of this process it sends the signal NUMBER. From then on batches come
  slowly, so that shutdown ends before the run does.
  """
  from ttm_jax.training import loop

  place, number = loop.to_device, int(os.environ.get('NUMBER', 0))
  seen = []

  def noted(batch, sharding):
    marks = [zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in batch['video']]
    seen.append(marks)
    with open(os.environ['NOTES'], 'a', encoding='utf-8') as file:
      file.write(json.dumps(marks) + '\n')
    if number and len(seen) >= int(os.environ['AT_BATCH']):
      if len(seen) == int(os.environ['AT_BATCH']):
        os.kill(os.getpid(), number)
      time.sleep(1.0)
    return place(batch, sharding)

  loop.to_device = noted


def disturb_and_lose() -> None:
  """In a process that will train: also fail to read the last checkpoint."""
  from ttm_jax.training.checkpoint import Checkpoints

  disturb()
  restore = Checkpoints.restore

  def lost(self, step, like):
    if step == STEPS:
      raise InputError('the disk of process 1 is gone')
    return restore(self, step, like)

  Checkpoints.restore = lost


def small_parts() -> None:
  """In a process that will train: copy parameters to the devices in many small parts."""
  from ttm_jax.training import placing

  placing.PART = 2**8


def start(
  command,
  folder: Path,
  count: int = 2,
  signals=(0, 0, 0, 0),
  at: int = 0,
  before=(disturb,) * 4,
) -> list[cli.Process]:
  """Start the processes of a job.

  Args:
    folder: for records.
    signals: one per process; 0 for none.
    at: the batch of that process at which it is signaled.
    before: function to call first in each process.
  """
  places = environments(count, free_port(), flags=os.environ['XLA_FLAGS'])
  return [
    cli.start(
      *command,
      env=places[i]
      | {'NOTES': str(folder / f'rows{i}'), 'NUMBER': str(int(signals[i])), 'AT_BATCH': str(at)},
      before=before[i],
    )
    for i in range(count)
  ]


def end_well(processes: list[cli.Process]) -> list[cli.Ended]:
  ended = [process.wait() for process in processes]
  assert [one.code for one in ended] == [0] * len(ended), '\n'.join(one.err for one in ended)
  return ended


def end_lost(processes: list[cli.Process]) -> list[cli.Ended]:
  begin = time.monotonic()
  ended = [process.wait() for process in processes]
  assert time.monotonic() - begin < 120
  return ended


def rows(path: Path) -> list[list[int]]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
  lines = map(json.loads, (run / 'metrics.jsonl').read_text().splitlines())
  return {line['step']: line['train/loss'] for line in lines if 'train/loss' in line}


@pytest.fixture(scope='module')
def command(latents):
  changes = {'train__steps': STEPS, 'train__sample_every': STEPS, 'train__evaluate_every': STEPS}

  def make(run, **more):
    return tiny.train_command('demo_stage1', run, latents, **SPLIT | changes | more)

  return make


@pytest.fixture(scope='module')
def alone(command, tmp_path_factory):
  """One process with two devices."""
  folder = tmp_path_factory.mktemp('alone')
  two = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'
  env = {'XLA_FLAGS': two, 'NOTES': str(folder / 'rows')}
  ended = cli.run(*command(folder / 'run'), env=env, before=disturb)
  assert ended.code == 0, ended.err
  assert 'parameters on 2 x cpu' in ended.err
  return folder


@pytest.fixture(scope='module')
def together(command, tmp_path_factory):
  """Two processes with one device each."""
  folder = tmp_path_factory.mktemp('together')
  end_well(start(command(folder / 'run'), folder))
  return folder


@pytest.mark.slow
def test_two_processes_see_the_same_samples(alone, together):
  # Four rows per batch: the first half of each belongs to process 0.
  parts = [rows(together / f'rows{i}') for i in range(2)]
  assert [a + b for a, b in zip(*parts, strict=True)] == rows(alone / 'rows')
  assert len(parts[0]) == STEPS and len(parts[0][0]) == 2
  assert len({mark for part in parts for step in part for mark in step}) == tiny.TRAIN_CLIPS


@pytest.mark.slow
def test_two_processes_compute_the_same(alone, together):
  one, two = losses(alone / 'run'), losses(together / 'run')
  assert sorted(one) == sorted(two) == list(range(1, STEPS + 1))
  np.testing.assert_allclose([two[s] for s in one], list(one.values()), atol=1e-5, rtol=0)
  a, b = (read_parameters(folder / 'run') for folder in (alone, together))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a, b)
  pictures = [Image.open(f / 'run/samples/step_0000012.png') for f in (alone, together)]
  np.testing.assert_allclose(*(np.asarray(p, np.int32) for p in pictures), atol=2)


@pytest.mark.slow
def test_only_one_process_writes(together):
  lines = (together / 'run/metrics.jsonl').read_text().splitlines()
  steps = [json.loads(line)['step'] for line in lines if 'train/loss' in line]
  assert steps == list(range(1, STEPS + 1))
  assert len(list((together / 'run/tensorboard').iterdir())) == 1
  assert len((together / 'run/starts.jsonl').read_text().splitlines()) == 1
  assert not (together / 'run/in_use.lock').exists()


@pytest.mark.slow
def test_two_processes_continue_what_one_began(alone, command, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(alone / 'run', run)
  for step in (8, STEPS):
    shutil.rmtree(run / 'checkpoints' / str(step))
  (run / 'metrics.jsonl').unlink()
  end_well(start(command(run), tmp_path))
  expected = {step: loss for step, loss in losses(alone / 'run').items() if step > 4}
  found = losses(run)
  assert list(found) == list(range(5, STEPS + 1))
  np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-5, rtol=0)
  marks = [a + b for a, b in zip(*(rows(tmp_path / f'rows{i}') for i in range(2)), strict=True)]
  assert marks == rows(alone / 'rows')[4:]


@pytest.mark.slow
def test_stopped_and_killed_it_is_the_same_run(command, together, tmp_path):
  run = tmp_path / 'run'
  ended = end_well(start(command(run), tmp_path, signals=[signal.SIGTERM] * 2, at=2))
  stopped = max(losses(run))
  assert stopped < STEPS
  assert f'stopped by signal after step {stopped}; the same command continues' in ended[0].err
  assert max(int(p.name) for p in (run / 'checkpoints').iterdir()) == stopped

  changed = command(run, job__peer_limit=5)
  survivor, killed = end_lost(start(changed, tmp_path, signals=[0, signal.SIGKILL], at=3))
  assert killed.code == -signal.SIGKILL and survivor.code == -signal.SIGABRT, survivor.err
  assert LOST.format(1) in survivor.err

  end_well(start(command(run), tmp_path))
  assert losses(run) == losses(together / 'run')
  a, b = (read_parameters(folder) for folder in (run, together / 'run'))
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_two_processes_adapt_open_weights(command, folders, tmp_path):
  """Read in parts, and from the converted copy; as one process that reads them whole."""
  (_, source) = folders['dit']
  changes = {'init_from': f'pretrained:{source}', 'lora__rank': 2, 'model__layers': 2}
  changes |= {'train__steps': 2, 'train__sample_every': 0, 'train__evaluate_every': 0}
  ended = cli.run(
    *command(tmp_path / 'alone', **changes, mesh__fsdp=1), env={'NOTES': str(tmp_path / 'rows')}
  )
  assert ended.code == 0, ended.err
  changes['init_cache'] = str(tmp_path / 'cache')
  for name in ('read', 'cached'):
    jobs = start(command(tmp_path / name, **changes), tmp_path, before=(small_parts,) * 2)
    ended = end_well(jobs)
    assert 'converted copy' not in ended[0].err
    np.testing.assert_allclose(
      list(losses(tmp_path / name).values()), list(losses(tmp_path / 'alone').values()), atol=1e-5
    )
    base, other = ((tmp_path / run / 'base.json').read_text() for run in ('alone', name))
    assert base == other
  assert (tmp_path / 'cache' / 'converted').is_dir()
  a, b = (read_parameters(tmp_path / name) for name in ('read', 'cached'))
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_second_job_is_refused_by_all_of_its_processes(command, tmp_path):
  run = tmp_path / 'run'
  run.mkdir()
  with exclusive(epath.Path(run)):
    for ended in end_lost(start(command(run), tmp_path)):
      assert ended.code == 2
      assert f'{run} is in use by another job: wait' in ended.err.splitlines()[-1]
  assert not list(run.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('who', [0, 3])
def test_four_processes(alone, command, tmp_path, who):
  run = tmp_path / 'run'
  changes = {'mesh__fsdp': 4, 'train__checkpoint_every': 3}
  signals = [0] * 4
  signals[who] = signal.SIGKILL
  changed = command(run, **changes, job__peer_limit=10)
  for i, one in enumerate(end_lost(start(changed, tmp_path, 4, signals, at=7))):
    assert one.code == (-signal.SIGKILL if i == who else -signal.SIGABRT), one.err
    assert i == who or (LOST.format(who) if who else 'slice 0 task 0') in one.err
  end_well(start(command(run, **changes), tmp_path, 4))
  one, four = losses(alone / 'run'), losses(run)
  assert sorted(four) == sorted(one)
  np.testing.assert_allclose([four[s] for s in one], list(one.values()), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_fall_back_together(command, together, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(together / 'run', run)
  # Only process 1 cannot read its part.
  processes = start(command(run), tmp_path, before=(disturb, disturb_and_lose))
  ended = end_well(processes)
  assert 'the disk of process 1 is gone: going on from the one before' in ended[0].err
  assert 'continues after step 8' in ended[0].err
  assert [path.name for path in (run / 'damaged').iterdir()] == [str(STEPS)]
  assert losses(run) == losses(together / 'run')
  a, b = (read_parameters(folder) for folder in (run, together / 'run'))
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(command, tmp_path):
  run = tmp_path / 'run'
  end_well(start(command(run), tmp_path, signals=[0, signal.SIGTERM], at=2))
  last = max(losses(run))
  assert last < STEPS
  assert str(last) in [path.name for path in (run / 'checkpoints').iterdir()]


@pytest.mark.slow
def test_a_frozen_process_ends_the_job(command, tmp_path):
  run = tmp_path / 'run'
  changed = command(run, job__peer_limit=10)
  processes = start(changed, tmp_path, signals=[0, signal.SIGSTOP], at=3)
  ended = processes[0].wait()
  assert ended.code == -signal.SIGABRT and LOST.format(1) in ended.err
  os.kill(processes[1].pid, signal.SIGKILL)
  processes[1].wait()


@pytest.mark.slow
def test_a_codec_is_written_from_the_shards_of_all_processes(clips, tmp_path):
  changes = {'mesh__data': 1, 'mesh__fsdp': 2, 'train__steps': 2}
  run = tmp_path / 'run'
  end_well(
    start(tiny.train_command('codec_tae', run, clips, **changes), tmp_path, before=(None, None))
  )
  codec, ema = load_codec(run / 'codec'), read_parameters(run)['codec']
  # The statistics of the latents, which are no parameters, are measured at the end.
  written = by_name(nnx.to_pure_dict(nnx.state(codec, nnx.Param)))
  trained = by_name(ema)
  assert len(written) > 10
  for name, value in written.items():
    np.testing.assert_array_equal(value, trained[name], err_msg=name)


def by_name(tree) -> dict[str, np.ndarray]:
  leaves = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}
