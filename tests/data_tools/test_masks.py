"""Masks of whole videos: match them to frames, and map their values to objects."""

import argparse
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from data_tools.layouts import layout
from data_tools.sources import benchmark, importing
from data_tools.sources.descriptions import Description, Window
from data_tools.sources.sav import decode_rle, sav_videos
from data_tools.sources.vos import vos_videos
from data_tools.sources.windows import Cut, drafts
from tests.helpers import video_fixtures
from ttm_jax.errors import InputError

SIZE = (32, 48)


def moving(count, label=1):
  """Return a square that moves to the right by one pixel per frame."""
  ids = np.zeros((count, *SIZE), np.uint8)
  for t in range(count):
    ids[t, 6:14, 4 + t : 12 + t] = label
  return ids


def save_pictures(folder, names, suffix='.jpg'):
  folder.mkdir(parents=True)
  for name, frame in zip(names, video_fixtures.levels(len(names)), strict=True):
    Image.fromarray(frame).save(folder / f'{name}{suffix}')


def save_masks(folder, names, ids):
  folder.mkdir(parents=True)
  for name, picture in zip(names, ids, strict=True):
    Image.fromarray(picture).save(folder / (name if '.' in name else f'{name}.png'))


def read(root, key=None, frames=4):
  """Return the label maps of the windows of a video, and the note on how they were read."""
  (video,) = [v for v in vos_videos(root, None, fps=12) if key in (None, v.key)]
  cut = Cut()
  return np.stack([d.ids for d in drafts(video, Window(frames, frames, 12, SIZE), cut)]), cut.how


def why_not(root):
  with pytest.raises(InputError) as caught:
    read(root)
  return str(caught.value)


def test_pictures_and_masks_belong_together_by_their_numbers(tmp_path):
  ids = moving(9)
  save_pictures(tmp_path / 'JPEGImages' / 'a', [f'{t:05d}' for t in range(8)])
  save_masks(tmp_path / 'Annotations' / 'a', [f'{t:05d}' for t in range(9)], ids)
  found, how = read(tmp_path, frames=8)
  np.testing.assert_array_equal(found[0], ids[:8])
  assert how.endswith('masks: 1 masks without an image ignored, such as 00008.png')
  # One is missing in the middle: the count is equal, but the numbers differ from the frames'.
  (tmp_path / 'Annotations' / 'a' / '00004.png').unlink()
  assert why_not(tmp_path) == (
    f'{tmp_path}/JPEGImages/a: has 8 frames, but there are 8 masks: 00004.jpg has no mask, and'
    ' 00008.png belongs to no image; give each mask the name of its image'
  )


@pytest.mark.parametrize(
  'pictures, masks, order',
  [
    ('frame_{}', 'mask_{}_of_1', [0, 1, 2, 3]),
    ('{}', '000{}', [0, 1, 2, 3]),
    ('clip2_{}', 'clip2_{}_mask3', [0, 1, 2, 3]),
    # Numbers beyond those of the frames: matched in order, since the counts are equal.
    ('{}', '10{}', [0, 1, 2, 3]),
    ('{}', 'x{}', [0, 1, 2, 3]),
  ],
)
def test_names_that_differ(tmp_path, pictures, masks, order):
  ids = moving(12)
  numbers = [2, 9, 10, 11]  # In numeric, not alphabetical order.
  save_pictures(tmp_path / 'a' / 'JPEGImages', [pictures.format(n) for n in numbers])
  save_masks(tmp_path / 'a' / 'Annotations', [masks.format(n) for n in numbers], ids[numbers])
  found, _ = read(tmp_path)
  np.testing.assert_array_equal(found[0], ids[numbers][order])


def test_numbers_that_are_shifted_are_not_guessed(tmp_path):
  save_pictures(tmp_path / 'a' / 'JPEGImages', ['f1', 'f2', 'f3', 'f4'])
  save_masks(tmp_path / 'a' / 'Annotations', ['m0', 'm1', 'm2', 'm3'], moving(4))
  assert 'f4.jpg has no mask, and m0.png belongs to no image' in why_not(tmp_path)
  for t in range(4):
    (tmp_path / 'a' / 'Annotations' / f'm{t}.png').rename(
      tmp_path / 'a' / 'Annotations' / f'm{t + 5}.png'
    )
  found, how = read(tmp_path)
  np.testing.assert_array_equal(found[0], moving(4))
  assert how.endswith('masks: masks assigned to the images in order, from m5.png')


def test_masks_of_every_other_picture(tmp_path):
  save_pictures(tmp_path / 'a' / 'JPEGImages', [f'{t:05d}' for t in range(6)])
  save_masks(tmp_path / 'a' / 'Annotations', ['00000', '00002', '00004'], moving(3))
  assert why_not(tmp_path).endswith(
    'has 6 frames, but there are 3 masks: 00001.jpg and 2 others have no mask; add the missing'
    ' masks, or remove the images without a mask'
  )


def test_two_masks_of_one_picture(tmp_path):
  save_pictures(tmp_path / 'a' / 'JPEGImages', ['0', '1', '2', '3'])
  names = ['0.png', '1.png', '1.PNG', '2.png', '3.png']
  save_masks(tmp_path / 'a' / 'Annotations', names, moving(5))
  assert 'two masks have the name 1; remove one' in why_not(tmp_path)


def test_masks_of_a_video_have_no_gap(tmp_path):
  video_fixtures.save(tmp_path / 'a' / 'video.mp4', video_fixtures.levels(8))
  save_masks(tmp_path / 'a' / 'masks', [f'{5 * t:05d}' for t in range(8)], moving(8))
  found, _ = read(tmp_path, frames=8)
  np.testing.assert_array_equal(found[0], moving(8))
  (tmp_path / 'a' / 'masks' / '00015.png').rename(tmp_path / 'a' / 'masks' / '00040.png')
  assert why_not(tmp_path) == (
    f'{tmp_path}/a/video.mp4: its masks are numbered with a gap between 10 and 20; number them as'
    ' the frames of the video'
  )


def test_one_mapping_for_the_whole_video(tmp_path):
  """Late ids above 8 do not renumber earlier ones; windows agree with each other."""
  video_fixtures.save(tmp_path / 'a' / 'video.mp4', video_fixtures.levels(8))
  ids = moving(8).astype(np.uint16) * 300
  ids[4:, 20:24, 4:8] = 20
  ids[6:, 28:, :4] = 2
  save_masks(tmp_path / 'a' / 'masks', [f'{t}' for t in range(8)], ids)
  found, how = read(tmp_path)
  wanted = np.zeros((8, *SIZE), np.uint8)
  wanted[ids == 300], wanted[ids == 20], wanted[ids == 2] = 1, 3, 2
  np.testing.assert_array_equal(found.reshape(8, *SIZE), wanted)
  assert how.endswith('masks: values 300, 20 renumbered to 1, 3')


def test_what_was_done_is_in_the_report(tmp_path):
  video_fixtures.save(tmp_path / 'a' / 'video.mp4', video_fixtures.levels(4))
  save_masks(tmp_path / 'a' / 'masks', [f'{t}.PNG' for t in range(4)], moving(4, 255))
  report = importing.Report()
  captions = {'a': Description('c', 'm', {1: 'box'}, {1: 'a box'})}
  (clip,) = importing.Imported(tmp_path, captions, Window(4, 4, 12, SIZE), report)
  np.testing.assert_array_equal(clip.ids, moving(4))
  assert report.sources['a'].endswith('masks: white on black read as one object, 1 windows')


@pytest.mark.parametrize('suffix', ['.png', '.PNG', '.bmp', '.tif', '.gif'])
def test_endings_of_masks_and_files_of_systems(tmp_path, suffix):
  video_fixtures.save(tmp_path / 'a' / 'video.mp4', video_fixtures.levels(4))
  save_masks(tmp_path / 'a' / 'masks', [f'{t}{suffix}' for t in range(4)], moving(4, 3))
  for folder in (tmp_path, tmp_path / 'a', tmp_path / 'a' / 'masks'):
    (folder / '.DS_Store').write_bytes(b'x')
    (folder / 'Thumbs.db').write_bytes(b'x')
    (folder / '__MACOSX').mkdir()
    (folder / '__MACOSX' / f'._0{suffix}').write_bytes(b'x')
    (folder / '@eaDir').mkdir()
  for t in range(4):
    (tmp_path / 'a' / 'masks' / f'._{t}{suffix}').write_bytes(b'\0\5\26\7')
  found, _ = read(tmp_path)
  np.testing.assert_array_equal(found[0], moving(4, 3))
  args = argparse.Namespace(source=str(tmp_path), kind='auto')
  if suffix != '.gif':
    assert layout(args) == 'vos'


def davis(root, resolutions, keys=('bear', 'kite')):
  for factor, resolution in enumerate(resolutions, 1):
    for key in keys:
      names = [f'{t:05d}' for t in range(4)]
      ids = moving(4).repeat(factor, 1).repeat(factor, 2)
      save_pictures(root / 'JPEGImages' / resolution / key, names)
      for name in names:
        path = root / 'JPEGImages' / resolution / key / f'{name}.jpg'
        Image.open(path).resize(ids.shape[:0:-1]).save(path)
      save_masks(root / 'Annotations' / resolution / key, names, ids)


def test_both_resolutions_of_davis(tmp_path):
  davis(tmp_path, ['480p', 'Full-Resolution'])
  (tmp_path / 'Annotations' / '.DS_Store').write_bytes(b'x')
  (tmp_path / 'Annotations' / '__MACOSX').mkdir()
  (tmp_path / 'ImageSets').mkdir()
  assert [video.key for video in vos_videos(tmp_path, None)] == ['bear', 'kite']
  for key in ('bear', 'kite'):
    found, how = read(tmp_path, key)
    np.testing.assert_array_equal(found[0], moving(4))
    assert '48x32' in how
    assert how.endswith('masks: resolution 480p read, of 480p, Full-Resolution')


def test_a_video_that_one_resolution_lacks(tmp_path):
  davis(tmp_path, ['480p'], ['bear'])
  davis(tmp_path, ['Full-Resolution'], ['kite'])
  assert [video.key for video in vos_videos(tmp_path, None)] == ['bear', 'kite']
  for key in ('bear', 'kite'):
    found, how = read(tmp_path, key)
    np.testing.assert_array_equal(found[0], moving(4))
    assert 'resolution' not in how


def test_one_level_of_any_name_and_scenes(tmp_path):
  davis(tmp_path / 'a', ['valid'], ['bear'])
  assert [video.key for video in vos_videos(tmp_path / 'a', None)] == ['bear']
  davis(tmp_path / 'b', ['park', 'town'], ['dog'])
  assert [video.key for video in vos_videos(tmp_path / 'b', None)] == ['park/dog', 'town/dog']
  found, _ = read(tmp_path / 'b', 'park/dog')
  np.testing.assert_array_equal(found[0], moving(4))


# SA-V.


def annotated(folder, name, frames, kind='manual'):
  content = {'masklet_id': list(range(len(frames[0]))), 'masklet': frames}
  (folder / f'{name}_{kind}.json').write_text(json.dumps(content))


def as_text(mask):
  rle = pytest.importorskip('pycocotools.mask', reason='pycocotools is not installed')
  found = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
  return {'size': [int(n) for n in found['size']], 'counts': found['counts'].decode()}


def as_bytes(mask):
  text = as_text(mask)
  return {**text, 'counts': str(text['counts'].encode())}


def as_list(mask):
  flat = mask.ravel(order='F').astype(np.int8)
  edges = np.flatnonzero(np.diff(flat)) + 1
  runs = np.diff([0, *edges, flat.size]).tolist()
  return {'size': list(mask.shape), 'counts': [0, *runs] if flat[0] else runs}


@settings(deadline=None, max_examples=50)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_masks_of_every_encoding(mask):
  for encode in (as_text, as_bytes, as_list):
    np.testing.assert_array_equal(decode_rle(encode(mask)), mask)


def test_every_letter_of_an_encoding():
  """One of the letters is the backslash, which `repr` of bytes doubles."""
  mask = np.random.default_rng(0).random((200, 300)) < 0.01
  assert '\\\\' in as_bytes(mask)['counts']
  np.testing.assert_array_equal(decode_rle(as_bytes(mask)), mask)


@pytest.mark.parametrize(
  'counts', [[1, 2], [-1, 1537], ['a'], [2**70], 'zz', "b'zz'", [1536.5], [None]]
)
def test_encodings_of_other_lengths(counts):
  with pytest.raises(InputError, match='run lengths of a mask do not give 48x32 pixels'):
    decode_rle({'size': [32, 48], 'counts': counts})


def sav(folder, frames=17):
  video_fixtures.save(folder / 'v1.mp4', video_fixtures.levels(frames, step=5), 24)


def windows(folder, frames=4, stride=4):
  """Return label maps of the windows of v1 at 24 fps by first frame, the note, and rejections."""
  (video,), _ = sav_videos(folder)
  cut, found, reason = Cut(), {}, ''
  try:
    for draft in drafts(video, Window(frames, stride, 24, SIZE), cut):
      found[int(draft.key[-5:])] = draft.ids
  except InputError as error:
    reason = str(error)
  return found, cut.how, reason


def test_masklets_that_are_not_seen_may_be_null(tmp_path):
  sav(tmp_path, 8)
  ids = moving(8)
  annotated(tmp_path, 'v1', [[as_list(ids[0] > 0), None], [as_text(ids[4] > 0), None]])
  found, _, reason = windows(tmp_path)
  assert (found[0] == ids[:4]).all() and not reason
  (tmp_path / '._v1.mp4').write_bytes(b'x')
  annotated(tmp_path, '._v1', [[None]])
  assert len(sav_videos(tmp_path)[0]) == 1


def test_files_that_annotate_different_numbers_of_frames(tmp_path):
  sav(tmp_path)
  ids = moving(17)
  annotated(tmp_path, 'v1', [[as_text(ids[t] > 0)] for t in range(0, 17, 4)])
  other = np.zeros(SIZE, bool)
  other[20:30, 20:30] = True
  annotated(tmp_path, 'v1', [[as_list(other)] for _ in range(3)], 'auto')
  found, how, reason = windows(tmp_path, frames=8, stride=1)
  # The other file ends at frame 8: in later windows its object is background.
  for start, maps in found.items():
    wanted = ids[start : start + 8].copy()
    if start + 7 <= 8:
      wanted[:, other] = 2
    np.testing.assert_array_equal(maps, wanted)
  assert sorted(found) == [*range(10)] and not reason
  assert 'masks: annotated frames of v1_manual.json 5, v1_auto.json 3' in how


def test_a_video_goes_on_after_its_annotations(tmp_path):
  """The last annotation does not apply to the rest of the video."""
  sav(tmp_path)
  ids = moving(17)
  annotated(tmp_path, 'v1', [[as_text(ids[t] > 0)] for t in (0, 4)])
  found, _, reason = windows(tmp_path)
  assert sorted(found) == [0, 4]
  assert 'annotations end with frame 4, but the video goes on; windows that reach frame 8' in reason


def test_turned_masks_are_told(tmp_path):
  sav(tmp_path, 8)
  annotated(tmp_path, 'v1', [[as_text(m.T > 0)] for m in moving(2)])
  _, _, reason = windows(tmp_path)
  assert 'masks are 32x48, but' in reason
  assert reason.endswith(
    'write "size" as [height, width] of the video as shown, for masks of that shape'
  )
  annotated(tmp_path, 'v1', [[{'size': [0, 3], 'counts': '0'}]])
  assert windows(tmp_path)[2].endswith('its masks have the size [0, 3]; write [height, width]')


def test_lists_of_ids_with_a_byte_order_mark(tmp_path):
  (tmp_path / 'ids.txt').write_text('sav_000001\nsav_000002\n', encoding='utf-8-sig')
  assert benchmark.read_list(tmp_path / 'ids.txt') == {'sav_000001', 'sav_000002'}
