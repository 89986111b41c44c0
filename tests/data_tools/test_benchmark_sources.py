"""Benchmarks become clips: masks, boxes and tracks to the pixel, and one sentence for bad input."""

import json

import numpy as np
import pytest

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import layouts, point_lists, prepare
from data_tools.commands import prepare as preparation
from data_tools.sources.box_masks import BoxMasks
from data_tools.sources.listed import listed_videos
from data_tools.sources.magicdata import magicdata
from data_tools.sources.movebench import movebench
from data_tools.sources.points import PointMasks, read_points
from data_tools.sources.windows import Crop
from tests.helpers import movebench as movebench_files
from tests.helpers import video_fixtures
from tests.helpers.movebench import FRAMES, SIZE, picture, save, straight
from ttm_jax import trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError

# Masks.


def test_boxes_are_filled_by_pixel_centers(tmp_path):
  path = str(picture(tmp_path / 'a.png'))
  big, small = (0.0, 0.0, 40.0, 30.0), (4.4, 2.6, 9.6, 5.4)
  boxes = ((1, (big, None)), (2, (small, small)))
  masks = BoxMasks('a', boxes, path, 8, 2)
  first, second = masks.window([0, 1], lambda ids: ids)
  wanted = np.zeros(SIZE, np.uint8)
  wanted[3:5, 4:10] = 2  # Centers between 2.6 and 5.4, and between 4.4 and 9.6.
  np.testing.assert_array_equal(second, wanted)
  assert (first[:30, :40][wanted[:30, :40] == 0] == 1).all() and (first[3:5, 4:10] == 2).all()
  assert not first[30:].any() and not first[:, 40:].any()
  out = BoxMasks('a', ((1, ((-9.0, -9.0, 5.0, 3.0),)),), path, 8, 1).window([0], lambda ids: ids)[0]
  assert out[:3, :5].all() and out.sum() == 15


def test_masks_move_with_the_mean_of_visible_points(tmp_path):
  first = np.zeros(SIZE, np.uint8)
  first[4:10, 6:12] = 3
  first[20:24, 30:34] = 5
  path = str(picture(tmp_path / 'a.png'))
  mask = str(picture(tmp_path / 'mask.png', first))
  points = [straight((7, 5), (2, 1)), straight((9, 6), (4, 1)), straight((40, 2), (1, 1))]
  xy = np.concatenate([*points, straight((32, 22), (-1, 0))], axis=1)
  visible = np.ones((FRAMES, 4), bool)
  visible[2:, 1] = False
  visible[4, 3] = False
  tracks = str(save(tmp_path / 't.npy', xy[None]))  # With the batch axis of CoTracker.
  seen = str(save(tmp_path / 'v.npy', visible[None]))
  masks = PointMasks(tracks, seen, mask, False, path, 8, FRAMES)
  found = masks.window([0, 1, 2, 4], lambda ids: ids)
  np.testing.assert_array_equal(found[0], first)
  for index, (x, y) in {1: (3, 1), 2: (4, 2), 3: (8, 4)}.items():
    np.testing.assert_array_equal(found[index] == 3, np.roll(first == 3, (y, x), (0, 1)))
  np.testing.assert_array_equal(found[2] == 5, np.roll(first == 5, -2, 1))
  assert not (found[3] == 5).any()  # None of its points is visible in frame 4.


def test_points_without_a_mask_get_squares(tmp_path):
  path = str(picture(tmp_path / 'a.png'))
  xy = np.concatenate([straight((10, 8), (1, 0)), straight((30, 20), (0, 1))], axis=1)
  tracks = str(save(tmp_path / 't.npy', xy))
  apart = PointMasks(tracks, '', '', False, path, 8, FRAMES).window([0, 3], lambda ids: ids)
  assert (apart[0, 7:10, 9:12] == 1).all() and (apart[0, 19:22, 29:32] == 2).all()
  assert (apart[0] > 0).sum() == 18
  assert (apart[1, 7:10, 12:15] == 1).all() and (apart[1, 22:25, 29:32] == 2).all()
  together = PointMasks(tracks, '', '', True, path, 8, FRAMES).window([0, 3], lambda ids: ids)
  np.testing.assert_array_equal(together[0] == 1, apart[0] > 0)
  # The mean displacement is (1.5, 1.5); halves are rounded up.
  np.testing.assert_array_equal(together[1] == 1, np.roll(apart[0] > 0, (2, 2), (0, 1)))


def test_points_follow_the_crop():
  crop = Crop.central((32, 48), (16, 16))
  assert crop.box == (8, 0, 40, 32)
  corners = np.array([[8, 0], [39, 31], [0, 0]])
  np.testing.assert_allclose(crop.points(corners), [[-0.25, -0.25], [15.25, 15.25], [-4.25, -0.25]])


@pytest.mark.parametrize(
  'tracks, visibility, said',
  [
    (None, None, 't.npy: cannot be read'),
    (np.zeros((4, 2)), None, 'must hold numbers [frames, points, 2], got float64 [4, 2]'),
    (np.zeros((2, 4, 3, 2)), None, 'must hold numbers [frames, points, 2]'),
    (np.array([['a']]), None, 'must hold numbers [frames, points, 2], got <U1 [1, 1]'),
    (np.array([{}], object), None, 't.npy: not a NumPy array of numbers; save it with numpy.save'),
    (np.full((4, 3, 2), np.nan), None, 't.npy: a visible point has no finite position'),
    (np.zeros((4, 3, 2)), np.ones((3, 4)), 'v.npy: must hold one value per frame and point [4, 3]'),
  ],
)
def test_bad_tracks_give_one_sentence(tracks, visibility, said, tmp_path):
  files = []
  for name, array in (('t.npy', tracks), ('v.npy', visibility)):
    if array is not None:
      np.save(tmp_path / name, array, allow_pickle=True)
    files.append(str(tmp_path / name) if array is not None or name == 't.npy' else '')
  with pytest.raises(InputError) as error:
    read_points(*files)
  assert said in str(error.value)


def test_a_file_that_is_no_array(tmp_path):
  (tmp_path / 't.npy').write_bytes(b'\x93NUMPY\x01\x00v\x00' + b'{' * 118)
  with pytest.raises(InputError, match='not a NumPy array of numbers'):
    read_points(tmp_path / 't.npy')


# The list.

BOX = [[4, 4, 12, 12]] * FRAMES
IMAGE = {'image': 'a.png', 'fps': 8, 'c': 'A dog.'}
ENTRY = {**IMAGE, 'boxes': {'1': BOX}}


@pytest.fixture
def root(tmp_path):
  picture(tmp_path / 'a.png')
  return tmp_path


def write_list(root, *entries):
  (root / 'benchmark.json').write_text(json.dumps([*entries]))


def test_a_list_becomes_a_clips_dataset(root, tmp_path):
  video_fixtures.save(root / 'videos' / 'b.mp4', video_fixtures.film(FRAMES, SIZE), 8)
  ids = np.zeros((FRAMES, *SIZE), np.uint8)
  for t in range(FRAMES):
    ids[t, 4:20, 10 + t : 30 + t] = 1
  trajectory.write_folder(root / 'masks', ids)
  save(root / 't.npy', straight((20, 16), (1, 0)))
  write_list(
    root,
    ENTRY,
    {'video': 'videos/b.mp4', 'c': 'A cat.', 'masks': 'masks', 'c_local': {'1': 'a cat runs'}},
    {**IMAGE, 'key': 'ball', 'tracks': 't.npy'},
  )
  out = tmp_path / 'out'
  prepare.main(
    [*(f'--source={root}', f'--out={out}', '--kind=list'), f'--clip={FRAMES}x32x32', '--fps=8']
  )
  clips = {clip.key: clip for clip in Clips(out, 'train')}
  assert [*clips] == ['a/00000', 'videos/b/00000', 'ball/00000']
  still, cat, ball = clips.values()
  assert still.prompts == ('A dog.',) and still.motion == 'A dog.' and still.names == ('object',)
  assert (still.video == still.video[0]).all() and still.fps == 8
  assert (still.ids[:, 4:12, :4] == 1).all() and still.ids.sum() == FRAMES * 8 * 4
  assert cat.prompts == ('a cat runs',) and cat.motion == 'A cat.'
  np.testing.assert_array_equal(cat.ids, ids[:, :, 8:40])
  assert ball.ids[0].any() and (ball.ids[2] == np.roll(ball.ids[0], 2, 1)).all()


def test_with_a_language_model_the_steps_find_the_prompts(root, tmp_path):
  write_list(root, ENTRY)
  options = [f'--source={root}', f'--out={tmp_path}/o', '--kind=list', '--clip=2x8x8', '--fps=8']
  for more, motion in (([], 'A dog.'), (['--llm=x'], '')):
    args = prepare.parser().parse_args([*options, *more])
    preparation.check(args)
    ((video,), _) = layouts.list_videos(args, layouts.layout(args))
    assert (video.description.caption, video.description.motion) == ('A dog.', motion)
    assert bool(video.description.prompts) == bool(motion)


@pytest.mark.parametrize(
  'change, said',
  [
    ({'image': None}, 'entry 1: "image" must be a path'),
    ({'image': 'b.png'}, 'entry 1: there is no "image"'),
    ({'image': '../a.png'}, 'is outside of'),
    ({'video': 'a.mp4'}, 'entry 1: must have either "video" or "image"'),
    ({'fps': 0}, 'entry 1: give "fps", the frames per second of the image, above 0'),
    ({'c': ' '}, 'entry 1: "c" must be a string with words'),
    ({'key': 3}, 'entry 1: "key" must be a text'),
    ({'tracks': 'a.png'}, 'entry 1: must have one of masks, boxes, tracks'),
    ({'boxes': []}, '"boxes" must be a JSON object with one list per object id'),
    ({'boxes': {'9': BOX}}, '"boxes" has the object id "9"; use 1 to 8'),
    ({'boxes': {'1': []}}, '"boxes.1" must be a list with one box per frame'),
    ({'boxes': {'1': BOX, '2': BOX[1:]}}, '"boxes" has objects with 5 and 6 frames; give all one'),
    ({'boxes': {'1': [[1, 2, 3]]}}, '"boxes.1", frame 0: give null or four numbers x0, y0, x1, y1'),
    ({'boxes': {'1': [[1, 2, 1, 4]]}}, 'the box [1, 2, 1, 4] is empty; give x0 < x1 and y0 < y1'),
  ],
)
def test_bad_entries_give_one_sentence(change, said, root):
  write_list(root, {**ENTRY, **change})
  with pytest.raises(InputError) as error:
    listed_videos(root)
  assert said in str(error.value) and str(root / 'benchmark.json') in str(error.value)


def test_other_bad_lists(root):
  with pytest.raises(InputError, match=r'benchmark\.json: cannot be read'):
    listed_videos(root)
  (root / 'benchmark.json').write_text('{}')
  with pytest.raises(InputError, match='must be a JSON list with one object per video'):
    listed_videos(root)
  write_list(root, ENTRY, ENTRY)
  with pytest.raises(InputError, match='two videos have the name "a"; rename one'):
    listed_videos(root)
  (root / 'masks').mkdir()
  write_list(root, {**IMAGE, 'masks': 'masks'})
  with pytest.raises(InputError, match='"masks" must be a folder with one mask per frame'):
    listed_videos(root)
  save(root / 't.npy', np.zeros((FRAMES, 9, 2)))
  write_list(root, {**IMAGE, 'tracks': 't.npy'})
  (video,) = listed_videos(root)
  with pytest.raises(InputError, match='has 9 points, but at most 8 can be objects of their own'):
    video.masks.check(video.path, video.probe())


# MoveBench and MagicData.


@pytest.fixture
def bench(tmp_path):
  return movebench_files.make(tmp_path / 'MoveBench')


def test_movebench_becomes_clips_and_point_lists(bench, tmp_path):
  how = [
    *(f'--source={bench}', '--kind=movebench-single', f'--clip={FRAMES}x16x16', '--fps=16'),
  ]
  prepare.main([*how, f'--out={tmp_path}/out'])
  dog, cat = Clips(tmp_path / 'out', 'train')
  assert (dog.key, dog.caption, dog.fps) == ('dog/00000', 'A dog runs, fast.', 16)
  assert (dog.video == dog.video[0]).all() and not (cat.video == cat.video[0]).all()
  assert dog.ids[0].any() and dog.prompts == ('A dog runs, fast.',)
  point_lists.main([*how, f'--out={tmp_path}/points.json'])
  found = json.loads((tmp_path / 'points.json').read_text())
  assert [*found] == ['dog/00000', 'cat/00000']
  # The crop of 32x48 to 16x16 starts at column 8 and halves the size.
  points = np.array(found['dog/00000']['points'])
  source = straight((20, 10), (1, 0))[:, 0]
  wanted = (source - np.array([8 - 0.5, -0.5])) / 2 - 0.5
  np.testing.assert_allclose(points, wanted[None], atol=1e-3)
  assert found['dog/00000']['visible'] == [[True] * FRAMES]
  # The square around the point, 3x3 pixels of the source, holds the point in the clip.
  for t in (0, 3):
    x, y = np.floor(points[0, t] + 0.5).astype(int)
    assert dog.ids[t, y, x] == 1


def test_movebench_masks_of_the_first_frame(bench):
  first = np.zeros(SIZE, np.uint8)
  first[6:14, 16:28] = 1
  picture(bench / 'en' / 'first_frame_mask' / 'dog.png', first)
  dog, cat = movebench(bench, 'single')
  np.testing.assert_array_equal(dog.masks.window([0], lambda ids: ids)[0], first)
  assert dog.repeat == FRAMES and cat.repeat == 0 and cat.masks.first == ''
  assert [video.key for video in movebench(bench / 'en', 'single')] == ['dog', 'cat']


def test_bad_movebench_gives_one_sentence(bench, tmp_path):
  with pytest.raises(InputError, match=r'contains no multi_track.txt, nor en/multi_track.txt'):
    movebench(bench, 'multi')
  place = bench / 'en'
  (place / 'single_track.txt').write_text('dog.mp4\n')
  with pytest.raises(InputError, match=r'line 1 has no caption; write NAME.mp4,CAPTION'):
    movebench(bench, 'single')
  (place / 'single_track.txt').write_text('cow.mp4,A cow.\n')
  with pytest.raises(InputError, match=r'line 1: there is no .*cow_tracks.npy; unpack the whole'):
    movebench(bench, 'single')
  (place / 'single_track.txt').write_text('dog.mp4,A dog.\n')
  (place / 'first_frame' / 'dog.jpg').unlink()
  with pytest.raises(InputError, match='there is neither a video dog nor'):
    movebench(bench, 'single')
  with pytest.raises(InputError, match='--captions: --kind movebench-single has captions already'):
    layouts.benchmark_videos(bench, 'movebench-single', tmp_path / 'x.json', None)


def test_tracks_of_another_length_are_reported_for_their_video(bench):
  video_fixtures.save(bench / 'en' / 'video' / 'cat.mp4', video_fixtures.film(4, SIZE), 16)
  _, cat = movebench(bench, 'single')
  with pytest.raises(InputError, match=r'has 6 frames, but .*cat.mp4 has 4; give one position per'):
    cat.masks.check(cat.path, cat.probe())


def test_magicdata_masks_and_boxes(tmp_path):
  root = tmp_path / 'magic'
  video_fixtures.save(root / 'videos' / 'dog.mp4', video_fixtures.film(FRAMES, SIZE), 8)
  video_fixtures.save(root / 'videos' / 'cat.mp4', video_fixtures.film(FRAMES, SIZE), 8)
  ids = np.zeros((FRAMES, *SIZE), np.uint8)
  ids[:, 4:12, 12:20] = 1
  ids[:, 14:20, 22:30] = 2
  for t in range(FRAMES):
    shown = trajectory.render(ids[t], 'supervision_half')
    picture(root / 'masks' / 'dog' / f'annotated_frame_{t:05d}.png', shown)
    picture(root / 'boxs' / 'dog' / f'annotated_frame_{t:05d}.png', shown[::-1].copy())
  (root / 'MagicData.csv').write_text(
    'file_name,caption\nvideos/dog.mp4,"A dog, running."\nvideos/cat.mp4,A cat.\n'
  )
  for what, wanted in (('masks', ids), ('boxes', ids[:, ::-1])):
    (dog, cat), table = magicdata(root, what)
    assert table == root / 'MagicData.csv' and dog.description.caption == 'A dog, running.'
    dog.masks.check(dog.path, dog.probe())
    np.testing.assert_array_equal(dog.masks.window(range(FRAMES), lambda m: m), wanted)
    assert 'cat.mp4: there is no' in cat.problem
  prepare.main(
    [
      *(f'--source={root}', '--kind=magicdata-masks', f'--out={tmp_path}/out', '--fps=8'),
      f'--clip={FRAMES}x32x32',
    ]
  )
  (clip,) = Clips(tmp_path / 'out', 'train')
  np.testing.assert_array_equal(clip.ids, ids[:, :, 8:40])
  (root / 'MagicData.csv').write_text('clip,caption\nvideos/dog.mp4,A dog.\n')
  with pytest.raises(InputError, match='entry 1 has no video; add a column "video"'):
    magicdata(root, 'masks')
  with pytest.raises(InputError, match='contains no folder videos; check the path'):
    magicdata(root / 'videos', 'masks')
  (root / 'boxs').rename(root / 'other')
  with pytest.raises(InputError, match='contains no folder boxs or boxes; check the path'):
    magicdata(root, 'boxes')
