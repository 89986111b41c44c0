"""Writers of datasets and codecs: concurrent ones do not mix, outputs in the way are named."""

import dataclasses
import threading

import pytest

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import compare_codecs, encode, make_scenes
from tests.helpers.hostile import SCENES, fails
from ttm_jax.codecs.folder import load_codec, save_codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data import clips
from ttm_jax.errors import InputError
from ttm_jax.scenes import generator as scenes

# Concurrent writers.


def test_of_two_writers_one_succeeds(tmp_path):
  barrier = threading.Barrier(2)
  ended = {}

  def write(seed):
    def splits():
      yield from scenes.Scenes(dataclasses.replace(SCENES, seed=seed), 3)
      barrier.wait()

    try:
      clips.write_clips(tmp_path / 'out', {'train': splits()}, {'seed': seed})
      ended[seed] = 'written'
    except InputError as error:
      ended[seed] = str(error)

  writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
  for writer in writers:
    writer.start()
  for writer in writers:
    writer.join()
  winner = next(seed for seed, end in ended.items() if end == 'written')
  assert 'another process wrote it in the meantime' in ended[3 - winner]
  found = clips.Clips(tmp_path / 'out', 'train')
  assert found.records.metadata == {'seed': winner}
  assert [clip.key for clip in found] == [f'scene-{winner}-{i}' for i in range(3)]
  assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_a_job_beside_the_dataset_is_left_alone(tmp_path):
  other = tmp_path / 'out.incomplete' / 'parts' / '00000'  # Of a job of `prepare`.
  other.mkdir(parents=True)
  make_scenes.main([f'--out={tmp_path}/out', '--train=1', '--validation=0', '--size=16'])
  assert other.is_dir()


def test_codecs_and_contexts_replace_each_other_whole(tmp_path):
  some = [clip.video for clip in scenes.Scenes(SCENES, 4)]
  codecs = [LinearCodec.fit(some, (2, 4, 4), channels) for channels in (3, 6)]

  def write(codec):
    for _ in range(15):
      save_codec(tmp_path / 'codec', codec)

  writers = [threading.Thread(target=write, args=(codec,)) for codec in codecs]
  for writer in writers:
    writer.start()
  for writer in writers:
    writer.join()
  assert load_codec(tmp_path / 'codec').channels in (3, 6)
  assert [path.name for path in tmp_path.iterdir()] == ['codec']


def test_outputs_in_the_way_are_named_before_the_work(dataset, capsys, monkeypatch, tmp_path):
  (tmp_path / 'full' / 'x').mkdir(parents=True)
  arguments = [f'--clips={dataset}', f'--out={tmp_path}/full', '--codec=none']
  assert 'full: already in use' in fails(capsys, monkeypatch, encode, *arguments)


@pytest.mark.parametrize('name', ['linear:0x4x4x6', 'linear:-2x4x4x6', 'linear:64x512x512x4'])
def test_patches_that_no_memory_holds(dataset, name, capsys, monkeypatch, tmp_path):
  arguments = [f'--clips={dataset}', f'--out={tmp_path}/out', f'--codec={name}']
  assert 'patch' in fails(capsys, monkeypatch, encode, *arguments)


def test_nothing_to_compare(dataset, capsys, monkeypatch):
  arguments = [f'--clips={dataset}', '--codec=linear:2x4x4x6', '--count=0']
  assert '--count 0' in fails(capsys, monkeypatch, compare_codecs, *arguments)
