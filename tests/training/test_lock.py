"""One job at a time in a run directory; what a dead job leaves is no obstacle."""

import subprocess
import sys

import pytest
from etils import epath

from tests.helpers import cli
from tests.helpers.mean_task import Mean, settings
from ttm_jax.errors import InputError
from ttm_jax.training.lock import FILE, exclusive
from ttm_jax.training.loop import train


def test_a_second_job_waits_for_the_first_to_end(tmp_path):
  folder = epath.Path(tmp_path / 'run')
  with exclusive(folder):
    with pytest.raises(InputError, match=r'run is in use by another job: wait'), exclusive(folder):
      pass
    assert (folder / FILE).exists()
  assert not folder.exists()
  with exclusive(folder):
    (folder / 'config.json').write_text('{}')
  assert [path.name for path in folder.iterdir()] == ['config.json']


def test_a_killed_process_leaves_no_lock(tmp_path):
  code = (
    'from etils import epath; from ttm_jax.training.lock import exclusive; import os, signal;'
    f'held = exclusive(epath.Path({str(tmp_path)!r})); held.__enter__();'
    'os.kill(os.getpid(), signal.SIGKILL)'
  )
  subprocess.run([sys.executable, '-c', code], cwd=cli.ROOT, check=False)
  assert (tmp_path / FILE).exists()
  with exclusive(epath.Path(tmp_path)):
    pass
  assert not (tmp_path / FILE).exists()


def test_training_takes_and_leaves_the_directory(tmp_path):
  held = []

  class Looking(Mean):
    def begin(self, directory):
      held.append((directory / FILE).exists())

  train(settings(train__steps=2), Looking(), tmp_path)
  assert held == [True] and not (tmp_path / FILE).exists()
  with exclusive(epath.Path(tmp_path)), pytest.raises(InputError, match='is in use by another job'):
    train(settings(train__steps=4), Mean(), tmp_path)
