"""Corrupt checkpoints, and run directories in buckets."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from tests.helpers.mean_task import EVERY, Mean, settings
from ttm_jax.data import storage
from ttm_jax.errors import InputError
from ttm_jax.parallel.mesh import make_mesh
from ttm_jax.report.results import read_metrics
from ttm_jax.training import checkpoint, digests, runs, sources
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.loop import train
from ttm_jax.training.optimizer import placement


def largest(folder: Path) -> Path:
  """Return the file of a checkpoint that holds most of the EMA parameters."""
  return max(
    (p for p in (folder / 'ema').rglob('*') if p.is_file()), key=lambda p: p.stat().st_size
  )


def flip_bits(folder):
  for path in (folder / 'ema').rglob('d/*'):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


def cut_short(folder):
  for path in folder.rglob('d/*'):
    path.write_bytes(path.read_bytes()[:-7])


def lose_files(folder):
  for path in folder.rglob('d/*'):
    path.unlink()


def lose_a_part(folder):
  shutil.rmtree(folder / 'optimizer')


def lose_the_description(folder):
  (folder / '_CHECKPOINT_METADATA').unlink()


def garble_the_description(folder):
  (folder / '_CHECKPOINT_METADATA').write_text('{')


def change_a_number(folder):
  """Replace the saved state by another one: readable, but wrong."""
  shutil.rmtree(folder / 'ema')
  shutil.copytree(folder / 'params', folder / 'ema')


DAMAGE = (
  flip_bits,
  cut_short,
  lose_files,
  lose_a_part,
  lose_the_description,
  garble_the_description,
  change_a_number,
)


@pytest.fixture(scope='module')
def four(tmp_path_factory):
  """A run of four steps with two checkpoints, and the result of six steps."""
  folder = tmp_path_factory.mktemp('four')
  train(settings(train__steps=4, **EVERY), Mean(), folder / 'run')
  return folder / 'run', train(settings(train__steps=6, **EVERY), Mean(), folder / 'six')


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(four, tmp_path, capfd, damage):
  run = tmp_path / 'run'
  shutil.copytree(four[0], run)
  damage(run / 'checkpoints' / '4')
  state = train(settings(train__steps=6, **EVERY), Mean(), run)
  jax.tree.map(np.testing.assert_array_equal, state, four[1])
  said = capfd.readouterr().err
  assert f'checkpoint {run}/checkpoints/4 ' in said and ': going on from the one before' in said
  assert 'continues after step 2' in said
  # Later steps are saved again under their names; corrupt checkpoints are moved aside.
  assert sorted(int(p.name) for p in (run / 'checkpoints').iterdir()) == [2, 4, 6]
  assert [p.name for p in (run / checkpoint.DAMAGED).iterdir()] == ['4']
  again = train(settings(train__steps=6, **EVERY), Mean(), run)
  jax.tree.map(np.testing.assert_array_equal, again, four[1])


def test_moments_in_the_memory_of_the_host_come_back_to_it(four, tmp_path):
  """Saved with or without offload; restored to the memory that the configuration names."""
  run = tmp_path / 'run'
  shutil.copytree(four[0], run)
  for steps, offload in ((6, True), (8, True), (10, False)):
    config = settings(train__steps=steps, optimizer__offload=offload, **EVERY)
    away = Mean()
    away.sharding = placement(Mean.sharding, config.optimizer)
    state = train(config, away, run)
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.optimizer) if x.ndim}
    assert kinds == {'pinned_host' if offload else 'device'}
    assert {x.sharding.memory_kind for x in jax.tree.leaves(state.params)} == {'device'}
    if steps == 6:
      jax.tree.map(np.testing.assert_array_equal, state, four[1])
  whole = train(settings(train__steps=10, **EVERY), Mean(), tmp_path / 'whole')
  jax.tree.map(np.testing.assert_array_equal, state, whole)


def test_no_checkpoint_can_be_read(four, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(four[0], run)
  for step in (2, 4):
    cut_short(run / 'checkpoints' / str(step))
  with pytest.raises(
    InputError, match=r'no checkpoint in .* can be read, the oldest: .*checkpoints/2'
  ):
    train(settings(train__steps=6, **EVERY), Mean(), run)
  assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['2', '4']


def test_a_reader_is_told_of_damage(four, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(four[0], run)
  change_a_number(run / 'checkpoints' / '4')
  with pytest.raises(
    InputError, match='checkpoints/4 is damaged: ema is not what was saved; remove'
  ):
    sources.read_parameters(run)


def test_digests_know_bits_and_places():
  rng = np.random.default_rng(0)
  tree = {'a': rng.normal(size=(8, 5)).astype(np.float32), 'b': np.arange(3, dtype=np.int32)}
  whole = int(digests.of_tree(tree))
  with jax.set_mesh(make_mesh({'fsdp': -1})):
    assert int(digests.of_tree(tree)) == whole
  changed = tree['a'].copy()
  changed.view(np.uint32)[3, 2] ^= 1
  swapped = {'a': tree['a'], 'b': tree['b'] + np.array([1, 0, 0], np.int32)}
  zero = {'a': tree['a'] * 0, 'b': tree['b']}
  others = [int(digests.of_tree(t)) for t in ({**tree, 'a': changed}, swapped, zero)]
  assert len({whole, *others}) == 4
  twins = {'a': tree['a'], 'b': tree['a'] * 2}
  assert int(digests.of_tree(twins)) != int(digests.of_tree({'a': twins['b'], 'b': twins['a']}))
  assert int(digests.of_tree({'x': jax.numpy.ones(4, 'bfloat16')})) == 4 * 0x3F80
  for some in (tree, twins, {'x': np.ones(4, jax.numpy.bfloat16), 'y': np.float32(3)}):
    parts = (digests.of_array(np.asarray(x), i) for i, x in enumerate(jax.tree.leaves(some)))
    assert sum(parts) % 2**32 == int(digests.of_tree(some))


# A bucket in memory.


@pytest.fixture
def bucket(monkeypatch):
  """Simulate gs:// with a dictionary."""

  class Bucket(MemoryFileSystem):
    protocol = ('gs', 'gcs')

    def __init__(self, *args, finalize_on_close=True, **kwargs):
      super().__init__(*args, **kwargs)

    @classmethod
    def _strip_protocol(cls, path):
      return MemoryFileSystem._strip_protocol(path.removeprefix('gs://'))

  Bucket.store, Bucket.pseudo_dirs = {}, ['']
  monkeypatch.setitem(_registry, 'gcs', Bucket)


def test_paths_in_buckets_stay_as_they_are():
  assert str(storage.absolute('gs://bucket/runs/a')) == 'gs://bucket/runs/a'
  assert str(Checkpoints('gs://bucket/runs/a').directory) == 'gs://bucket/runs/a'
  assert str(storage.absolute('runs/a')) == f'{Path.cwd()}/runs/a'
  assert storage.is_local('/runs/a') and not storage.is_local(epath.Path('gs://bucket/a'))


def test_buckets_need_a_package():
  with pytest.raises(InputError, match=r"gs://bucket/a: .*gcsfs.*pip install 'ttm_jax\[gcs\]'"):
    train(settings(), Mean(), 'gs://bucket/a')


def test_folders_in_buckets(bucket, tmp_path):
  folder = epath.Path('gs://bucket/runs/a')
  with storage.mirrored(folder, 'context') as local:
    assert list(local.iterdir()) == []
    (local / 'context' / 'codec').mkdir(parents=True)
    (local / 'context' / 'codec' / 'weights').write_bytes(b'12')
  assert (folder / 'context/codec/weights').read_bytes() == b'12'
  with storage.mirrored(folder, 'context', 'nothing') as local:
    assert (local / 'context/codec/weights').read_bytes() == b'12'
  with storage.fetched(folder, 'context') as local:
    assert (local / 'codec/weights').read_bytes() == b'12'
  with storage.mirrored(tmp_path) as local:
    assert local == tmp_path


class Kept:
  """Replaces the checkpoints, which tensorstore writes to buckets by itself."""

  def __init__(self, directory, *_):
    self.directory, self.saved = epath.Path(directory), []

  def restore_newest(self, *_):
    return None

  def save(self, state, rated=None):
    self.saved.append(int(state.step))

  def wait(self):
    pass

  close = wait


def test_a_run_in_a_bucket(bucket, monkeypatch):
  from ttm_jax.training import loop

  monkeypatch.setattr(loop, 'Checkpoints', Kept)
  folder = epath.Path('gs://bucket/runs/b')

  class Writing(Mean):
    def begin(self, directory):
      (directory / 'context').mkdir(exist_ok=True)
      (directory / 'context' / 'told').write_text('beforehand')

  for steps in (2, 3):
    config = settings(train__steps=steps, train__sample_every=2)
    train(config, Writing(), str(folder))
  assert runs.read_config(folder).train.steps == 3
  assert (folder / 'context/told').read_text() == 'beforehand'
  assert (folder / 'samples/step_0000002.png').exists()
  # The lines of the second run follow those of the first.
  assert len((folder / 'starts.jsonl').read_text().splitlines()) == 2
  assert [m['step'] for m in read_metrics(folder)] == [1, 2, 3]
