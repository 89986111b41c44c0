"""Checkpoints under paths with glob characters, and recovery of those that were lost there."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from tests.helpers.mean_task import EVERY, Mean, settings
from ttm_jax.errors import InputError
from ttm_jax.training import checkpoint, runs, sources
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.loop import train
from ttm_jax.training.place import PlainPath

ODD = 'proj [v1] *?{a}~ ü'


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def trained(folder: Path, steps: int):
  return train(settings(train__steps=steps, **EVERY), Mean(), folder)


def listed(folder: Path) -> dict[str, float]:
  return {str(p.relative_to(folder)): p.lstat().st_mtime for p in folder.rglob('*')}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """A run of two steps, resumed to six, under an ordinary path; and its last state."""
  folder = tmp_path_factory.mktemp('plain') / 'run'
  return folder, trained(folder, 6)


def as_before(monkeypatch) -> None:
  """Pass Orbax the path itself, and do not read saved checkpoints again."""
  monkeypatch.setattr(PlainPath, 'path', property(lambda self: self.folder))
  monkeypatch.setattr(Checkpoints, '_confirm', lambda self: None)


@pytest.fixture(scope='module')
def damaged(tmp_path_factory):
  """A run whose checkpoints were not merged."""
  folder = tmp_path_factory.mktemp('damaged') / '[v1]' / 'run'
  with pytest.MonkeyPatch.context() as monkeypatch:
    as_before(monkeypatch)
    trained(folder, 4)
  for part in (folder / 'checkpoints' / '4').iterdir():
    assert not part.is_dir() or not (part / 'manifest.ocdbt').exists()
  return folder


@pytest.mark.parametrize(
  'name', [ODD, '[v1]', 'a*b', '[!x]', '**', '{a,b}', "~it's $HOME %20 #1", 'a\nb']
)
def test_a_run_under_any_path_is_saved_and_continued(tmp_path, plain, name, monkeypatch):
  monkeypatch.chdir(tmp_path)
  trained(Path(name) / 'run', 4)
  state = trained(tmp_path / name / 'run', 6)
  same(state, plain[1])
  same(sources.read_parameters(Path(name) / 'run'), sources.read_parameters(plain[0]))
  stored = Checkpoints(Path(name) / 'run' / 'checkpoints', read_only=True).stored_ema(6)
  same(jax.tree.map(np.asarray, stored), plain[1].ema)
  # No other folder was made.
  assert sorted(p.name for p in (tmp_path / name / 'run' / 'checkpoints').iterdir()) == list('246')


def test_a_path_that_is_no_text_is_saved_and_continued(tmp_path, plain):
  folder = tmp_path / os.fsdecode(b'caf\xe9') / 'run'
  checkpoints = Checkpoints(folder / 'checkpoints')
  checkpoints.save(plain[1])
  checkpoints.wait()
  checkpoints.close()
  runs.write_config(epath.Path(folder), settings())
  same(sources.read_parameters(folder), plain[1].ema)


def test_links_are_taken_away_again(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'tmp'))
  (tmp_path / 'tmp').mkdir()
  trained(tmp_path / ODD / 'run', 2)
  sources.read_parameters(tmp_path / ODD / 'run')
  assert list((tmp_path / 'tmp').iterdir()) == []
  assert (tmp_path / ODD / 'run' / 'checkpoints' / '2').is_dir()


def test_a_temporary_folder_under_such_a_path_is_not_used(tmp_path, monkeypatch, plain):
  odd = tmp_path / '[tmp]'
  odd.mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(odd))
  same(trained(tmp_path / '[v1]' / 'run', 6), plain[1])


def test_addresses_of_buckets_with_such_marks_are_refused_before_training():
  with pytest.raises(InputError, match=r'gs://bucket/\[v1\]/checkpoints: .* choose another'):
    Checkpoints('gs://bucket/[v1]/checkpoints')
  Checkpoints('gs://bucket/[v1]/checkpoints', read_only=True)


def test_a_run_that_was_never_merged_is_continued(damaged, tmp_path, plain, capfd):
  run = tmp_path / 'moved'
  shutil.copytree(damaged, run)
  before = listed(run / 'checkpoints')
  same(trained(run, 6), plain[1])
  said = capfd.readouterr().err
  assert f'checkpoint {run}/checkpoints/4 was never merged: read from its parts' in said
  assert 'continues after step 4' in said
  after = listed(run / 'checkpoints')
  assert {k: v for k, v in after.items() if k in before} == before
  assert (run / 'checkpoints' / '6' / 'ema' / 'manifest.ocdbt').exists()


def test_a_run_that_was_never_merged_is_read_where_it_lies(damaged, plain, tmp_path):
  before = listed(damaged)
  whole = trained(tmp_path / 'run', 4)
  same(sources.read_parameters(damaged), whole.ema)
  stored = Checkpoints(damaged / 'checkpoints', read_only=True).stored_ema(4)
  same(jax.tree.map(np.asarray, stored), whole.ema)
  assert listed(damaged) == before


def test_what_was_never_merged_and_is_damaged_falls_back(damaged, tmp_path, plain, capfd):
  run = tmp_path / 'moved'
  shutil.copytree(damaged, run)
  (run / 'checkpoints' / '4' / 'params' / 'ocdbt.process_0' / 'manifest.ocdbt').write_bytes(b'x')
  same(trained(run, 6), plain[1])
  said = capfd.readouterr().err
  assert f'checkpoint {run}/checkpoints/4 cannot be read' in said
  assert 'continues after step 2' in said


def test_what_cannot_be_read_again_is_not_a_checkpoint(tmp_path, monkeypatch):
  run = tmp_path / 'run'
  trained(run, 2)
  moved = tmp_path / '[v1]'
  run.rename(moved)
  monkeypatch.setattr(PlainPath, 'path', property(lambda self: self.folder))
  with pytest.raises(InputError, match=r'step 4 in .*\[v1\].* cannot be read again \(.*not kept'):
    trained(moved, 4)
  assert Checkpoints(moved / 'checkpoints', read_only=True).steps() == [2]


@pytest.mark.parametrize('part', checkpoint._PARTS)
def test_a_part_that_lost_an_array_is_not_a_checkpoint(tmp_path, monkeypatch, plain, part):
  tree = Checkpoints._tree

  def less(self, folder):
    found = tree(self, folder)
    return {} if folder.name == part else found

  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  monkeypatch.setattr(Checkpoints, '_tree', less)
  with pytest.raises(InputError, match=f'array .* of {part} is not as it was saved'):
    checkpoints.save(plain[1])
    checkpoints.wait()
  assert checkpoints.steps() == []


def test_a_checkpoint_is_flushed_before_older_ones_go(tmp_path, monkeypatch):
  happened = []

  def noted(name, call):
    def wrapped(path):
      happened.append((name, os.path.basename(path)))
      return call(path)

    monkeypatch.setattr(checkpoint, name, wrapped)

  noted('flush_tree', checkpoint.flush_tree)
  noted('flush', checkpoint.flush)
  kind = type(epath.Path(tmp_path))
  rmtree = kind.rmtree

  def removed(path, *more, **options):
    happened.append(('removed', path.name))
    return rmtree(path, *more, **options)

  trained(tmp_path, 2)
  monkeypatch.setattr(kind, 'rmtree', removed)
  happened.clear()
  train(settings(train__steps=4, train__keep_last=1, **EVERY), Mean(), tmp_path)
  assert {('flush_tree', part) for part in checkpoint._PARTS} < set(happened)
  whole = happened.index(('flush_tree', '4'))
  assert happened[whole + 1] == ('flush', 'checkpoints')
  assert happened.index(('removed', '2')) > whole
  assert not (tmp_path / 'checkpoints' / '2').exists()


def description(**changes) -> bytes:
  return json.dumps({'item_handlers': {}, 'metrics': {}, **changes}).encode()


GARBAGE = {
  'empty': b'',
  'no text': b'\xff\xfe\x00',
  'zeros': bytes(500),
  'half': description()[:20],
  'a list': b'[1]',
  'a number': b'5',
  'nothing': b'null',
  'handlers': description(item_handlers=3),
  'time': description(commit_timestamp_nsecs='x'),
  'far time': description(commit_timestamp_nsecs=10**40),
  'custom': description(custom_metadata=7),
  'sums': description(custom_metadata={'digests': [1]}),
  'other sums': description(custom_metadata={'digests': {'params': 'x'}}),
  'deep': b'[' * 100_000,
  'folder': None,
}


@pytest.mark.parametrize(
  'step, kind',
  [*((4, kind) for kind in GARBAGE), *((2, k) for k in ('a list', 'time', 'far time', 'deep'))],
)
def test_no_damaged_description_blocks_a_run(tmp_path, plain, capfd, step, kind):
  run = tmp_path / 'run'
  shutil.copytree(plain[0], run)
  shutil.rmtree(run / 'checkpoints' / '6')
  file = run / 'checkpoints' / str(step) / '_CHECKPOINT_METADATA'
  if GARBAGE[kind] is None:
    file.unlink()
    file.mkdir()
  else:
    file.write_bytes(GARBAGE[kind])
  same(trained(run, 6), plain[1])
  said = capfd.readouterr().err
  assert f'continues after step {4 if step == 2 else 2}' in said
  if step == 4:
    assert f'checkpoint {run}/checkpoints/4 is damaged' in said
    assert (run / checkpoint.DAMAGED / '4').is_dir()
  same(sources.read_parameters(run), plain[1].ema)
