"""Two processes, one device each, and one process with two devices: the same run.

The processes find each other as on a cluster, by TTM_COORDINATOR, TTM_PROCESSES and TTM_PROCESS.
Parameters are split between the devices (fsdp = 2), so no process has all of them.
"""

import json
import os
import shutil
import signal
import socket
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests import doors, tiny
from ttm_jax.training.runs import read_parameters

STEPS = 8
# With a constant rate the program is the same, however many steps it is to run.
SPLIT = {
  'mesh__data': 1,
  'mesh__fsdp': 2,
  'model__layers': 1,
  'optimizer__schedule': 'constant',
  'train__checkpoint_every': 4,
}


def note_rows() -> None:
  """In a process that will train: notes which records it puts on its devices, in which order."""
  from ttm_jax.training import loop

  place = loop.to_device

  def noted(batch, sharding):
    marks = [zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in batch['video']]
    with open(os.environ['NOTES'], 'a', encoding='utf-8') as file:
      file.write(json.dumps(marks) + '\n')
    return place(batch, sharding)

  loop.to_device = noted


def free_port() -> int:
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    return server.getsockname()[1]


def start_two(command, folder: Path) -> list[doors.Process]:
  """The two processes of a job."""
  job = {'TTM_COORDINATOR': f'127.0.0.1:{free_port()}', 'TTM_PROCESSES': '2'}
  return [
    doors.start(
      *command,
      env=job | {'TTM_PROCESS': str(i), 'NOTES': str(folder / f'rows{i}')},
      before=note_rows,
    )
    for i in range(2)
  ]


def rows(path: Path) -> list[list[int]]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
  lines = map(json.loads, (run / 'metrics.jsonl').read_text().splitlines())
  return {line['step']: line['train/loss'] for line in lines if 'train/loss' in line}


@pytest.fixture(scope='module')
def command(latents):
  changes = {'train__steps': STEPS, 'train__sample_every': STEPS, 'train__evaluate_every': STEPS}
  return lambda run: tiny.train_command('demo_stage1', run, latents, **SPLIT | changes)


@pytest.fixture(scope='module')
def alone(command, tmp_path_factory):
  """One process with two devices."""
  folder = tmp_path_factory.mktemp('alone')
  two = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'
  env = {'XLA_FLAGS': two, 'NOTES': str(folder / 'rows')}
  ended = doors.run(*command(folder / 'run'), env=env, before=note_rows)
  assert ended.code == 0, ended.err
  assert 'parameters on 2 x cpu' in ended.err
  return folder


@pytest.fixture(scope='module')
def together(command, tmp_path_factory):
  """Two processes with one device each."""
  folder = tmp_path_factory.mktemp('together')
  for process in start_two(command(folder / 'run'), folder):
    ended = process.wait()
    assert ended.code == 0, ended.err
  return folder


def test_two_processes_see_the_same_samples(alone, together):
  # Four rows a batch, and the held-out batch first: the first half of each is of process 0.
  parts = [rows(together / f'rows{i}') for i in range(2)]
  assert [a + b for a, b in zip(*parts, strict=True)] == rows(alone / 'rows')
  assert len(parts[0]) == STEPS + 1 and len(parts[0][0]) == 2
  assert len({mark for part in parts for step in part[1:] for mark in step}) == tiny.TRAIN_CLIPS


def test_two_processes_compute_the_same(alone, together):
  one, two = losses(alone / 'run'), losses(together / 'run')
  assert sorted(one) == sorted(two) == list(range(1, STEPS + 1))
  np.testing.assert_allclose([two[s] for s in one], list(one.values()), atol=1e-5, rtol=0)
  a, b = (read_parameters(folder / 'run') for folder in (alone, together))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a, b)
  pictures = [Image.open(f / 'run/samples/step_0000008.png') for f in (alone, together)]
  np.testing.assert_allclose(*(np.asarray(p, np.int32) for p in pictures), atol=2)


def test_two_processes_continue_what_one_began(alone, command, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(alone / 'run', run)
  shutil.rmtree(run / 'checkpoints' / str(STEPS))
  (run / 'metrics.jsonl').unlink()
  for process in start_two(command(run), tmp_path):
    ended = process.wait()
    assert ended.code == 0, ended.err
  expected = {step: loss for step, loss in losses(alone / 'run').items() if step > 4}
  found = losses(run)
  assert list(found) == [5, 6, 7, 8]
  np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-5, rtol=0)
  marks = [a + b for a, b in zip(*(rows(tmp_path / f'rows{i}')[1:] for i in range(2)), strict=True)]
  assert marks == rows(alone / 'rows')[5:]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(latents, tmp_path):
  run = tmp_path / 'run'
  changes = SPLIT | {'train__steps': 100_000, 'train__checkpoint_every': 100_000}
  processes = start_two(tiny.train_command('demo_stage1', run, latents, **changes), tmp_path)
  end = time.monotonic() + 200
  while not (run / 'metrics.jsonl').exists() or not losses(run):
    assert time.monotonic() < end and all(p.running for p in processes)
    time.sleep(0.05)
  os.kill(processes[1].pid, signal.SIGTERM)
  for process in processes:
    ended = process.wait(100)
    assert ended.code == 0, ended.err
  last = max(losses(run))
  assert [path.name for path in (run / 'checkpoints').iterdir()] == [str(last)]
