"""One job at a time in a run directory; locks of dead jobs are taken over."""

import json
import os
import subprocess
import sys
import time

import pytest
from etils import epath

from tests.helpers import cli
from tests.helpers.mean_task import Mean, settings
from ttm_jax.errors import InputError
from ttm_jax.training import lock
from ttm_jax.training.lock import FILE, Lock
from ttm_jax.training.loop import train


def written(folder) -> dict:
  return json.loads((folder / FILE).read_text())


def test_a_second_job_waits_for_the_first_to_end(tmp_path):
  folder = epath.Path(tmp_path / 'run')
  first = Lock(folder)
  first.acquire()
  with pytest.raises(InputError, match=rf'run is in use by another job, on .*{os.getpid()}\)'):
    Lock(folder).acquire()
  first.check()
  first.release()
  assert not folder.exists()
  second = Lock(folder)
  second.acquire()
  (folder / 'config.json').write_text('{}')
  second.release()
  assert [path.name for path in folder.iterdir()] == ['config.json']


def test_what_a_killed_process_left_is_taken_at_once(tmp_path):
  code = (
    'from etils import epath; from ttm_jax.training.lock import Lock; import os, signal;'
    f'Lock(epath.Path({str(tmp_path)!r})).acquire(); os.kill(os.getpid(), signal.SIGKILL)'
  )
  subprocess.run([sys.executable, '-c', code], cwd=cli.ROOT, check=False)
  left, said = written(tmp_path), []
  assert left['pid'] != os.getpid()
  begin = time.monotonic()
  lock = Lock(epath.Path(tmp_path))
  lock.acquire(said.append)
  assert time.monotonic() - begin < 5
  assert len(said) == 1 and said[0].endswith('that was here is dead')
  assert written(tmp_path)['pid'] == os.getpid()
  lock.release()


def elsewhere(folder, count=1) -> None:
  """Write the lock of a job on another machine."""
  told = {'token': 'theirs', 'count': count, 'host': 'far', 'pid': 7, 'machine': 'x', 'begun': '9'}
  (folder / FILE).write_text(json.dumps(told))


def test_a_dead_machine_holds_nothing_up_for_ever(tmp_path):
  elsewhere(tmp_path)
  said = []
  lock = Lock(epath.Path(tmp_path), renew=0.2, lease=1.0)
  lock.acquire(said.append)
  assert [text.partition(' ')[2] for text in said] == [
    'was in use on far: seeing for 1 seconds whether it still is',
    'the job on far that was here is dead',
  ]
  lock.release()


def test_a_living_job_elsewhere_is_seen(tmp_path):
  folder = epath.Path(tmp_path)
  elsewhere(tmp_path)

  def later(text):
    if 'seeing' in text:
      elsewhere(tmp_path, 2)

  with pytest.raises(InputError, match='in use by another job, on far'):
    Lock(folder, renew=0.2, lease=60.0).acquire(later)
  assert written(tmp_path)['host'] == 'far'


def test_one_that_slept_too_long_does_not_save(tmp_path):
  lock = Lock(epath.Path(tmp_path), renew=0.05)
  lock.acquire()
  elsewhere(tmp_path)
  with pytest.raises(InputError, match='in use by another job, on far'):
    lock.check()
  time.sleep(0.3)
  lock.release()
  assert written(tmp_path)['host'] == 'far'


def test_a_sign_of_life_is_written_again_and_again(tmp_path):
  lock = Lock(epath.Path(tmp_path), renew=0.05)
  lock.acquire()
  end = time.monotonic() + 30
  while written(tmp_path)['count'] < 3:
    assert time.monotonic() < end
    time.sleep(0.02)
  lock.release()


def test_a_number_used_again_is_not_the_same_process(tmp_path):
  identity = lock._identity(os.getpid())
  assert lock._lives(identity) is True
  assert lock._lives(identity | {'begun': '1'}) is False
  assert lock._lives(identity | {'machine': 'another'}) is None
  assert lock._lives({}) is None


def test_training_takes_and_leaves_the_directory(tmp_path):
  held = []

  class Looking(Mean):
    def begin(self, directory):
      held.append(written(directory)['pid'])

  train(settings(train__steps=2), Looking(), tmp_path)
  assert held == [os.getpid()] and not (tmp_path / FILE).exists()
  elsewhere(tmp_path)
  taken = Lock(epath.Path(tmp_path), renew=0.1, lease=0.3)
  taken.acquire()
  with pytest.raises(InputError, match='is in use by another job'):
    train(settings(train__steps=4), Mean(), tmp_path)
  assert written(tmp_path)['token'] == taken._token
  taken.release()
