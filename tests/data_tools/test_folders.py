"""Real videos become the requested clips, and every omission is reported."""

import json
import operator
import os
import pathlib

import numpy as np
import pytest

from data_tools import import_folder
from data_tools.sources import descriptions, importing
from tests.helpers.masked_video import DOG, label_maps, make_source
from ttm_jax import trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError

SHARED = pathlib.Path(os.environ.get('TTM_SHARED_DATA', '../shared/data'))


def window(frames=4, stride=2, fps=4, size=(12, 12)):
  return descriptions.Window(frames, stride, fps, size)


def described(entries, tmp_path):
  path = tmp_path / 'captions.json'
  path.write_text(json.dumps(entries))
  return descriptions.read_captions(path)


def imported(tmp_path, entries, wanted):
  report = importing.Report()
  clips = list(importing.Imported(tmp_path, described(entries, tmp_path), wanted, report))
  return clips, report


def test_frames_are_those_nearest_in_time(tmp_path):
  make_source(tmp_path / 'a' / 'dog', label_maps())
  clips, report = imported(tmp_path, {'a/dog': DOG}, window())
  # At 12 fps, every third of 20 frames: 7 frames, which contain windows from 0 and 2.
  assert [clip.key for clip in clips] == ['a/dog/00000', 'a/dog/00006']
  grey = [clip.video[:, 10, 0, 0].astype(int) for clip in clips]
  np.testing.assert_allclose(grey, [[0, 30, 60, 90], [60, 90, 120, 150]], atol=3)
  assert clips[0].fps == 4 and clips[0].video.shape == (4, 12, 12, 3)
  assert str(report).splitlines() == [
    '2 clips from 1 sources',
    '  a/dog: 20 frames at 12 fps -> 7 at 4, 48x24 cropped to 24x24 -> 12x12, 2 windows',
  ]


def test_rates_that_do_not_divide_are_rounded(tmp_path):
  make_source(tmp_path / 'dog', label_maps((12, 24, 48)))
  clips, _ = imported(tmp_path, {'dog': DOG}, window(frames=7, fps=8))
  # k / 8 s is frame 1.5 k: 0, 1.5, 3, 4.5, 6, 7.5, 9; halves are rounded up.
  np.testing.assert_allclose(
    clips[0].video[:, 0, 0, 0].astype(int) / 10, [0, 2, 3, 5, 6, 8, 9], atol=0.3
  )
  clips, _ = imported(tmp_path, {'dog': DOG}, window(frames=12, fps=12.1))
  np.testing.assert_allclose(clips[0].video[:, 0, 0, 0] / 10, np.arange(12), atol=0.3)


def test_crops_are_central_and_masks_stay_aligned(tmp_path):
  make_source(tmp_path / 'dog', label_maps())
  (clip, _), _ = imported(tmp_path, {'dog': DOG}, window())
  # The source is 24x48: columns 12 to 36 are kept and halved. The object was 4:12, 20:28.
  expected = np.zeros((12, 12), np.uint8)
  expected[2:6, 4:8] = 1
  np.testing.assert_array_equal(clip.ids, np.broadcast_to(expected, (4, 12, 12)))
  white = clip.video[1, ..., 0] > 140
  assert (white == (expected > 0)).mean() > 0.97
  (tall, _), _ = imported(tmp_path, {'dog': DOG}, window(size=(8, 16)))
  expected = np.zeros((8, 16), np.uint8)  # A scale of 1/3: all columns, rows 0 to 24.
  expected[[[1], [2], [3]], [[7, 8]]] = 1
  np.testing.assert_array_equal(tall.ids[0], expected)


def test_objects_are_those_of_the_first_frame(tmp_path):
  ids = label_maps()
  ids[3:, 16:22, 20:28] = 1  # Visible from frame 3 on, which is the second frame at 4 fps.
  ids[:, 0:3, 14:20] = 2  # No prompt.
  make_source(tmp_path / 'dog', ids)
  (first, second), report = imported(tmp_path, {'dog': DOG}, window())
  assert (first.names, first.prompts) == (('red ball',), ('a red ball that rolls',))
  assert np.unique(first.ids).tolist() == [0, 1] and first.ids[0, 3, 5] == 1
  assert second.prompts == ('a brown dog that runs', 'a red ball that rolls')
  assert (second.ids[0, 9, 5], second.ids[0, 3, 5], second.ids[0, 0, 2]) == (1, 2, 0)
  assert report.backgrounded == {
    'no prompt for their id': 2,
    "not visible in their clip's first frame": 1,
  }
  assert '  objects made background 2: no prompt for their id' in str(report)


def test_windows_without_objects_are_counted(tmp_path):
  ids = label_maps()
  ids[:6] = 0
  make_source(tmp_path / 'dog', ids)
  make_source(tmp_path / 'short', label_maps()[:9])
  clips, report = imported(tmp_path, {'dog': DOG, 'short': DOG}, window())
  assert [clip.key for clip in clips] == ['dog/00006']
  assert report.clips == 1 and report.rejected == {
    'no described object is visible in the first frame': 1,
    'source shorter than 4 frames at 4 fps': 1,
  }


def test_how_many_clips_there_will_be(tmp_path):
  make_source(tmp_path / 'dog', label_maps())
  (tmp_path / 'bad').mkdir()
  captions = described({'dog': DOG, 'bad': DOG}, tmp_path)
  clips = importing.Imported(tmp_path, captions, window(), importing.Report())
  assert operator.length_hint(clips) == len(list(clips)) == 2


def test_unusable_sources_are_reported_and_passed_over(tmp_path):
  ids = label_maps()
  make_source(tmp_path / 'good', ids, video='other.mp4', masks='Annotations')
  make_source(tmp_path / 'count', ids)
  (tmp_path / 'count' / 'masks' / '00019.png').unlink()
  make_source(tmp_path / 'size', ids)
  for file in (tmp_path / 'size' / 'masks').iterdir():
    file.unlink()
  trajectory.write_folder(tmp_path / 'size' / 'masks', ids[:, :, :20])
  make_source(tmp_path / 'slow', ids, fps=3)
  make_source(tmp_path / 'two', ids, video='a.mp4')
  make_source(tmp_path / 'two', ids, video='b.mp4')
  make_source(tmp_path / 'bare', ids)
  for file in (tmp_path / 'bare' / 'masks').iterdir():
    file.unlink()
  entries = dict.fromkeys(['count', 'size', 'slow', 'two', 'bare', 'none', 'good'], DOG)
  clips, report = imported(tmp_path, entries, window())
  assert [clip.key for clip in clips] == ['good/00000', 'good/00006']
  for key, part in {
    'count': 'has 20 frames, but there are 19 masks',
    'size': 'is 48x24, but its masks are 20x24',
    'slow': 'has 3 fps, fewer than the 4 of the clips',
    'two': 'contains 2 video files',
    'bare': '0 of its folders contain PNG files',
    'none': 'no such folder',
  }.items():
    assert report.sources[key].startswith('not used: ') and part in report.sources[key]
    assert key in report.sources[key]
  with pytest.raises(InputError, match='nowhere: there is no such folder'):
    next(iter(importing.Imported(tmp_path / 'nowhere', {}, window(), report)))


@pytest.mark.parametrize(
  'change, complaint',
  [
    ({'c': None}, '"dog": "c" must be a string'),
    ({'c_motion': ' '}, '"dog": "c_motion" must be a string'),
    ({'c_local': {}}, '"dog": "c_local" describes no object'),
    ({'c_local': ['a']}, '"dog": "c_local" must be a JSON object with one text per'),
    ({'c_local': {'9': 'a'}}, '"dog": "c_local" has the object id "9"; use 1 to 8'),
    ({'c_local': {'one': 'a'}}, '"dog": "c_local" has the object id "one"'),
    ({'c_local': {'1': 5}}, r'"dog": "c_local\.1" must be a string'),
    ({'names': {'1': ''}}, r'"dog": "names\.1" must be a string'),
  ],
)
def test_captions_are_checked(tmp_path, change, complaint):
  with pytest.raises(InputError, match=rf'captions\.json: {complaint}'):
    described({'_note': 'x', 'dog': DOG | change}, tmp_path)


def test_caption_files_are_checked(tmp_path):
  for content, complaint in [('{"a": ', 'not valid JSON'), ('[]', 'one entry per video')]:
    (tmp_path / 'c.json').write_text(content)
    with pytest.raises(InputError, match=rf'c\.json: .*{complaint}'):
      descriptions.read_captions(tmp_path / 'c.json')
  with pytest.raises(InputError, match='describes no video'):
    described({'_note': 'x'}, tmp_path)
  with pytest.raises(InputError, match=r'none\.json: cannot be read'):
    descriptions.read_captions(tmp_path / 'none.json')


def test_names_are_given_or_taken_from_prompts(tmp_path):
  entry = described({'dog': DOG | {'names': {'3': 'rubber ball'}}}, tmp_path)['dog']
  assert entry.names == {1: 'brown dog', 3: 'rubber ball'}
  assert [
    descriptions.name_from(prompt)
    for prompt in ('a man in a denim shirt', 'a red cup.', 'The', 'water', 'a dog of the man')
  ] == ['man', 'red cup', 'The', 'water', 'dog']


def test_the_tool_holds_out_whole_videos(tmp_path, capsys):
  for name in ('x', 'y', 'z'):
    make_source(tmp_path / name, label_maps())
  described(dict.fromkeys(['x', 'y', 'z'], DOG), tmp_path)
  paths = ['--source', str(tmp_path), '--captions', str(tmp_path / 'captions.json')]
  options = ['--frames', '3', '--fps', '4', '--size', '12x16']
  out = str(tmp_path / 'out')
  import_folder.main([*paths, *options, '--out', out, '--validation', '1'])
  keys = {split: [c.key for c in Clips(out, split)] for split in ('train', 'validation')}
  assert keys == {
    'train': ['x/00000', 'x/00009', 'y/00000', 'y/00009'],
    'validation': ['z/00000', 'z/00009'],
  }
  assert Clips(out, 'train')[0].video.shape == (3, 12, 16, 3)
  assert capsys.readouterr().out.startswith('6 clips from 3 sources\n  x: 20 frames at 12 fps')
  options[1] = '30'
  with pytest.raises(SystemExit) as stopped:
    import_folder.main([*paths, *options, '--out', str(tmp_path / 'empty')])
  shown = capsys.readouterr()
  assert stopped.value.code == 2 and 'split "train" would be empty' in shown.err
  assert '  left out 3: source shorter than 30 frames at 4 fps' in shown.out
  assert not (tmp_path / 'empty').exists()


def test_the_last_windows_of_each_video_are_held_out(tmp_path, capsys):
  for key, frames in (('x', 20), ('short', 9)):
    make_source(tmp_path / key, label_maps((frames, 24, 48)), fps=4)
  (tmp_path / 'captions.json').write_text(json.dumps({'x': DOG, 'short': DOG}))
  paths = ['--source', str(tmp_path), '--captions', str(tmp_path / 'captions.json')]
  options = ['--frames', '6', '--stride', '3', '--fps', '4', '--size', '12x16']
  out = str(tmp_path / 'out')
  import_folder.main([*paths, *options, '--out', out, '--validation_windows', '1'])
  keys = {split: [c.key for c in Clips(out, split)] for split in ('train', 'validation')}
  # The window at 9 shares frames with the one at 12. Of `short`, both windows overlap.
  assert keys == {
    'train': ['x/00000', 'x/00003', 'x/00006', 'short/00000', 'short/00003'],
    'validation': ['x/00012'],
  }
  assert capsys.readouterr().out.startswith('6 clips from 2 sources\n  x: 20 frames at 4 fps')
  for flags, error in (
    (['--validation_windows', '-1'], '--validation_windows -1 must be at least 0'),
    (
      ['--validation', '1', '--validation_windows', '1'],
      '--validation and --validation_windows hold out both: give one of the two',
    ),
  ):
    with pytest.raises(SystemExit) as stopped:
      import_folder.main([*paths, *options, '--out', out, *flags])
    assert stopped.value.code == 2 and f'error: {error}' in capsys.readouterr().err


@pytest.mark.skipif(
  not (SHARED / 'captions.json').is_file(),
  reason=f'no real clips under {SHARED}; set TTM_SHARED_DATA to their folder',
)
def test_real_clips():
  captions = descriptions.read_captions(SHARED / 'captions.json')
  chosen = {key: captions[f'sam2_pseudo/{key}'] for key in ('juggle_a', 'cups_b')}
  report = importing.Report()
  juggle, cups = importing.Imported(
    SHARED / 'sam2_pseudo', chosen, descriptions.Window(12, 40, 8, (64, 96)), report
  )
  assert juggle.prompts[1] == 'a white soccer ball bouncing up and down'
  assert juggle.motion == chosen['juggle_a'].motion
  for t in range(12):  # The white ball is brighter than its surroundings in every frame.
    assert juggle.video[t][juggle.ids[t] == 2].mean() > juggle.video[t].mean() + 40
    assert 10 < (juggle.ids[t] == 2).sum() < 60
  # The fourth object, the ball, appears only when the cup is lifted.
  assert np.unique(cups.ids).tolist() == [0, 1, 2, 3] and len(cups.prompts) == 3
  assert report.backgrounded == {"not visible in their clip's first frame": 1}
  assert report.sources['cups_b'].startswith('49 frames at 30 fps -> 13 at 8, 640x360 cropped')
