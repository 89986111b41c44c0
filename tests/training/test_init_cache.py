"""Runs that start from open weights: read in parts, and from a converted copy the second time."""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy

from tests.helpers.mean_task import Mean, settings
from ttm_jax.errors import InputError
from ttm_jax.pretrained.names import Entry, StoredParameter, import_parameters
from ttm_jax.pretrained.weights import WEIGHTS, read
from ttm_jax.training import init_cache, placing, sources
from ttm_jax.training.loop import train
from ttm_jax.training.sources import Source


class FromWeights(Mean):
  """A task that starts from the tensor `theirs` of a folder, and counts how often it is read."""

  def __init__(self, folder):
    super().__init__()
    self.folder, self.reads = folder, 0

  def source(self, init_from):
    params = import_parameters([Entry(('w',), ('theirs',), (3,), 'same')], read(self.folder))

    class Counted(StoredParameter):
      def __getitem__(inner, index):
        self.reads += 1
        return super().__getitem__(index)

    params['w'].__class__ = Counted
    return Source(params, files=frozenset(params['w'].files))

  def transfer(self, source, params):
    return {**params, **source}


@pytest.fixture
def weights(tmp_path):
  def write(*values):
    folder = tmp_path / 'weights'
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text('{}')
    safetensors.numpy.save_file({'theirs': np.array(values, np.float32)}, folder / WEIGHTS)
    return folder

  return write


@pytest.fixture
def begun(tmp_path):
  """Train no step from the weights; return the parameters and how often these were read."""
  numbers = iter(range(99))

  def run(folder, **changes):
    config = settings(train__steps=0, init_from='pretrained:x', **changes)
    task = FromWeights(folder)
    state = train(config, task, tmp_path / f'run{next(numbers)}')
    np.testing.assert_array_equal(state.ema['w'], state.params['w'])
    return list(map(float, state.params['w'])), task.reads

  return run


def test_the_second_run_starts_from_the_copy(begun, weights, tmp_path, capfd):
  folder, cache = weights(1, 2, 3), str(tmp_path / 'some [cache]')
  assert begun(folder) == ([1, 2, 3], 1)
  assert begun(folder, init_cache=cache) == ([1, 2, 3], 1)
  assert begun(folder, init_cache=cache) == ([1, 2, 3], 0)
  assert 'converted copy' not in capfd.readouterr().err


def test_a_copy_of_other_files_is_made_again(begun, weights, tmp_path, capfd):
  cache = tmp_path / 'cache'
  begun(weights(1, 2, 3), init_cache=str(cache))
  folder = weights(4, 5, 6)
  os.utime(folder / WEIGHTS, ns=(0, 10**18))
  assert begun(folder, init_cache=str(cache)) == ([4, 5, 6], 1)
  said = f'the converted copy in {cache} was made from something else (files differs)'
  assert capfd.readouterr().err.count(f'{said}; it is made again') == 1
  assert begun(folder, init_cache=str(cache)) == ([4, 5, 6], 0)


def flip_bits(copy):
  for path in copy.rglob('d/*'):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


def lose_values(copy):
  for path in copy.rglob('d/*'):
    path.unlink()


def lose_the_description(copy):
  (copy / '_CHECKPOINT_METADATA').unlink()


def another_digest(copy):
  path = copy / '_CHECKPOINT_METADATA'
  text = json.loads(path.read_text())
  text['custom_metadata']['digest'] += 1
  path.write_text(json.dumps(text))


DAMAGE = {
  flip_bits: ' ',
  lose_values: ' cannot be read (',
  lose_the_description: ' is damaged: _CHECKPOINT_METADATA does not say what it was made from',
  another_digest: ' is damaged: its values are not those that were saved',
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_copy_is_made_again(begun, weights, tmp_path, capfd, damage):
  folder, cache = weights(1, 2, 3), tmp_path / 'cache'
  begun(folder, init_cache=str(cache))
  damage(cache / 'converted')
  assert begun(folder, init_cache=str(cache)) == ([1, 2, 3], 1)
  said = capfd.readouterr().err
  assert f'the converted copy in {cache}{DAMAGE[damage]}' in said and 'it is made again' in said
  assert begun(folder, init_cache=str(cache)) == ([1, 2, 3], 0)


def test_a_folder_that_cannot_hold_a_copy_is_told(begun, weights, tmp_path, capfd, monkeypatch):
  (tmp_path / 'file').write_text('')
  folder = weights(1, 2, 3)
  assert begun(folder, init_cache=str(tmp_path / 'file')) == ([1, 2, 3], 1)
  assert f'no converted copy is kept in {tmp_path}/file (File exists)' in capfd.readouterr().err
  usage = shutil.disk_usage(tmp_path)._replace(free=5)
  monkeypatch.setattr(init_cache.shutil, 'disk_usage', lambda path: usage)
  assert begun(folder, init_cache=str(tmp_path / 'full')) == ([1, 2, 3], 1)
  assert '(it takes 0.00 GB, 0.00 GB are free)' in capfd.readouterr().err


def test_a_damaged_run_is_not_started_from(tmp_path, monkeypatch):
  """Also if it is read in slices, whose checksums are added up on the devices."""
  monkeypatch.setattr(placing, 'PART', 4)
  train(settings(train__steps=2), Mean(), tmp_path / 'run')
  before = np.asarray(sources.of_run(tmp_path / 'run').params['w'])

  class Next(FromWeights):
    def source(self, init_from):
      return sources.of_run(init_from)

  config = settings(train__steps=0, init_from=str(tmp_path / 'run'))
  state = train(config, Next(None), tmp_path / 'next')
  np.testing.assert_array_equal(state.params['w'], before)
  step = tmp_path / 'run' / 'checkpoints' / '2'
  shutil.rmtree(step / 'ema')
  shutil.copytree(step / 'params', step / 'ema')
  with pytest.raises(InputError, match='checkpoints/2 is damaged: ema is not what was saved'):
    train(config, Next(None), tmp_path / 'other')
