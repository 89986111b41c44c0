"""Outputs are checked before the work: they are writable, and replace no input."""

import errno
import os
from pathlib import Path

import pytest

from ttm_jax import outputs
from ttm_jax.errors import InputError


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The current folder, with a file `photo.png` and a folder `masks` of one file."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'photo.png').write_bytes(b'photo')
  (tmp_path / 'masks').mkdir()
  (tmp_path / 'masks' / '0.png').write_bytes(b'mask')
  return tmp_path


def refusal(*args, **options):
  with pytest.raises(InputError) as caught:
    outputs.check('--out', *args, **options)
  return str(caught.value)


@pytest.mark.parametrize(
  'output, read',
  [
    ('photo.png', 'photo.png'),
    ('./photo.png', '{here}/photo.png'),
    ('masks/../photo.png', 'photo.png'),
    ('soft.png', 'photo.png'),
    ('photo.png', 'soft.png'),
    ('hard.png', 'photo.png'),
    ('link/0.png', 'masks/0.png'),
  ],
)
def test_a_file_is_the_same_by_any_path(here, output, read):
  (here / 'soft.png').symlink_to('photo.png')
  (here / 'hard.png').hardlink_to(here / 'photo.png')
  (here / 'link').symlink_to('masks')
  read = read.format(here=here)
  said = refusal([output], reads={'--image': read})
  assert said == (
    f'{output} would overwrite {read} (the same place), which --image reads: name another --out'
  )
  assert (here / 'photo.png').read_bytes() == b'photo'


def test_case_makes_no_difference_where_the_system_ignores_it(here, monkeypatch):
  """As on macOS: two spellings are one file, which only its device and inode show."""
  usual = os.stat

  def stat(path, *args, **options):
    return usual(str(path).lower(), *args, **options) if 'PHOTO' in str(path) else usual(path)

  monkeypatch.setattr(Path, 'stat', lambda self, **options: stat(self))
  assert 'would overwrite photo.png' in refusal(['PHOTO.PNG'], reads={'--image': 'photo.png'})


def test_an_input_inside_an_output_folder_is_kept(here):
  (here / 'link').symlink_to('masks')
  for folder in ('masks', 'link', '.', '..'):
    said = refusal(folders=[folder], reads={'--trajectory': 'masks/0.png'})
    assert f'{folder} would overwrite masks/0.png inside it, which --trajectory reads' in said


def test_files_that_a_folder_points_to_are_kept(here):
  """A folder of links whose files are in the output folder."""
  (here / 'mine').mkdir()
  (here / 'mine' / '0.png').symlink_to(here / 'masks' / '0.png')
  reads = {'--trajectory': outputs.files_of('mine')}
  assert 'would overwrite mine/0.png inside it' in refusal(folders=['masks'], reads=reads)


def test_results_may_lie_beside_inputs_and_in_their_folders(here):
  reads = {
    '--image': 'photo.png',
    '--trajectory': outputs.files_of('masks'),
    '--llm': 'meta-llama/Llama-3.1-8B-Instruct',
    '--detector': None,
    '--text': ['', 'no/such/folder'],
  }
  outputs.check('--out', ['photo2.png', 'masks/out.mp4', 'new/deep/out.mp4'], reads=reads)
  outputs.check('--out', ['masks/out.mp4'], ['masks/new', 'new'], reads)
  assert sorted(p.name for p in here.iterdir()) == ['masks', 'photo.png']
  assert [p.name for p in (here / 'masks').iterdir()] == ['0.png']


def test_addresses_are_compared_as_text():
  for output, read in (('gs://b/run', 'gs://b/run/'), ('gs://b', 'gs://b/run/context')):
    assert 'would overwrite' in refusal([output], reads={'--data': read})
  outputs.check('--out', ['gs://b/run/new'], reads={'--data': 'gs://b/run'})
  outputs.check('--out', ['gs://b/run'], reads={'--data': 'gs://c/run'})


@pytest.mark.parametrize(
  'files, folders, reason',
  [
    (['photo.png/out.mp4'], [], 'not a directory'),
    (['photo.png/deep/out.mp4'], [], 'not a directory'),
    (['masks'], [], 'there is a folder of that name'),
    ([], ['photo.png'], 'there is a file of that name'),
    ([f'{"n" * 252}.mp4'], [], 'file name too long'),
    ([f'new/{"n" * 252}.mp4'], [], 'file name too long'),
    ([], ['ü' * 128], 'file name too long'),
    (['/dev/null'], [], 'not a file'),
    (['loop'], [], 'too many levels of symbolic links'),
    (['a\0b'], [], 'embedded null byte'),
  ],
)
def test_a_place_that_cannot_be_written_is_named(here, files, folders, reason):
  (here / 'loop').symlink_to('loop')
  (output,) = files or folders
  assert refusal(files, folders) == f'cannot write {output} ({reason}): name another --out'


def test_a_full_disk_shows_before_the_work(here):
  assert refusal(['out.mp4'], needed=2**60) == (
    'cannot write out.mp4 (no space left on device): name another --out'
  )


@pytest.mark.parametrize('code', [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EDQUOT])
def test_a_system_that_refuses_shows_before_the_work(here, monkeypatch, code):
  def refuse(**options):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(outputs.tempfile, 'TemporaryFile', refuse)
  said = refusal(['out.mp4'], ['out'])
  assert said == f'cannot write out.mp4 ({os.strerror(code).lower()}): name another --out'
