"""Show records of every kind of file, as text and video."""

import json

import numpy as np
import pytest

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import parts, show
from data_tools.stats import Tally
from tests.helpers import tiny
from ttm_jax import trajectory
from ttm_jax.data import records
from ttm_jax.data.clips import Clips
from ttm_jax.data.latents import Latents
from ttm_jax.media import video_reader
from ttm_jax.metrics.video import psnr


def shown(capsys, *arguments):
  show.main(list(map(str, arguments)))
  return capsys.readouterr().out.splitlines()


def fails(capsys, *arguments):
  with pytest.raises(SystemExit) as stopped:
    show.main(list(map(str, arguments)))
  assert stopped.value.code == 2
  return capsys.readouterr().err


def check(lines, clip, path):
  assert f'caption  {clip.caption}' in lines and f'motion   {clip.motion}' in lines
  for i, (name, said) in enumerate(zip(clip.names, clip.prompts, strict=True), 1):
    share = (clip.ids[0] == i).mean()
    assert f'object {i}  {name}: {said} ({share:.1%} of frame 0, in' in '\n'.join(lines)
  assert lines[-1] == str(path)
  video, fps = video_reader.read_video(path)
  assert fps == clip.fps and psnr(video, trajectory.overlay(clip.video, clip.ids)) > 17


def test_clips_by_folder_and_by_file(clips, tmp_path, capsys):
  out = tmp_path / 'a.mp4'
  lines = shown(capsys, clips, 2, '--split=validation', f'--out={out}')
  assert lines[0] == f'{clips}, split validation: clips record 2 of {tiny.VALIDATION_CLIPS}'
  check(lines, Clips(clips, 'validation')[2], out)
  (file,) = clips.glob('*train*')
  lines = shown(capsys, file, 5, f'--out={out}')
  assert lines[0] == f'{file}, split train: clips record 5 of {tiny.TRAIN_CLIPS}'
  check(lines, Clips(clips, 'train')[5], out)


def test_a_shard_of_a_job_that_still_runs(clips, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folder = parts.part_folder(tmp_path, 3)
  some = Clips(clips, 'train')
  with parts.new_part(folder, 'digest', Tally()) as writer:
    for i in range(3):
      writer.write('4x16x16', 'train', some[i])
  file = folder / '4x16x16.train.array_record'
  lines = shown(capsys, file, 1)
  assert lines[0] == f'{file}: clips record 1 of 3'
  check(lines, some[1], f'{some[1].key}.mp4')
  (folder / 'b.array_record').write_bytes(file.read_bytes()[:100])
  assert 'cannot be read; it may be incomplete' in fails(capsys, folder / 'b.array_record', 0)
  assert 'not a file of a dataset; give the folder' in fails(capsys, folder / 'tally.json', 0)


def test_latents(latents, tmp_path, capsys):
  out = tmp_path / 'a.mp4'
  lines = shown(capsys, latents, 1, f'--out={out}')
  source = Latents(latents, 'train')
  assert lines[0] == f'{latents}, split train: latents record 1 of {tiny.TRAIN_CLIPS}'
  record, ids = source[1], source.ids(1, (tiny.FRAMES, tiny.SIDE, tiny.SIDE))
  size = f'{tiny.FRAMES} of {tiny.SIDE} x {tiny.SIDE} at {tiny.FPS} fps, preset dit'
  assert lines[1:4] == [
    f'key      {source.key(1)}#0',
    f'frames   {size}',
    'masks    as in the clip',
  ]
  assert f'object 1  was {record["permutation"][0]} in the clip (' in lines[4]
  said = next(line for line in lines if line.startswith('video  '))
  assert 'float16 [2, 4, 4, 6]' in said and f'std {record["video"].astype(float).std():.3g}' in said
  video, _ = video_reader.read_video(out)
  assert video.shape == (tiny.FRAMES, tiny.SIDE, 2 * tiny.SIDE, 3)
  rendered = trajectory.render(ids)
  assert psnr(video[:, :, tiny.SIDE :], rendered) > 15
  # The overlay shows the objects at their positions in the decoded video.
  inside = ids > 0
  assert np.abs(video[:, :, : tiny.SIDE].astype(int) - rendered)[inside].mean() < 120


def test_what_is_not_there(clips, latents, tmp_path, capsys):
  total = tiny.TRAIN_CLIPS
  assert f'has the records 0 to {total - 1}, not {total}' in fails(capsys, clips, total)
  assert 'has the records 0 to' in fails(capsys, clips, -1)
  assert 'no split "trian" (did you mean "train"?)' in fails(capsys, clips, 0, '--split=trian')
  assert 'there is no such dataset or file' in fails(capsys, tmp_path / 'none', 0)
  other = tmp_path / 'other'
  records.write(other, 'others', '1.0.0', {'n': np.int32}, {'train': [('a', {'n': 1})]})
  assert 'contains "others"; give a dataset of clips or latents' in fails(capsys, other, 0)
  assert json.loads((other / 'dataset_info.json').read_text())
