"""Motion and videos from and to other programs."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from data_tools.sources.points import PointMasks
from data_tools.sources.sav import label_map, read_annotations
from tests.helpers.studio_stub import LIMITS
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.media.video_io import write_video
from ttm_jax.studio import exports, imports
from ttm_jax.studio.motion import Base, Cache
from ttm_jax.studio.project import proposal
from ttm_jax.trajectory import boxes
from ttm_jax.trajectory_edits import split

SHAPE = LIMITS.frames, LIMITS.height, LIMITS.width


def ids():
  mask = np.zeros(SHAPE[1:], np.uint8)
  mask[4:10, 4:12], mask[20:28, 24:34] = 1, 2
  return np.stack([np.roll(mask, t, 1) for t in range(LIMITS.frames)])


def motion(clip=None, edits=()):
  return Cache().compute(proposal(ids() if clip is None else clip, 0), edits)


def still():
  return Cache().compute(Base.still(ids()[0], LIMITS.frames), ())


def unpacked(content):
  with zipfile.ZipFile(io.BytesIO(content)) as file:
    return {name: file.read(name) for name in file.namelist()}


def test_palette_pngs(tmp_path):
  for name, data in unpacked(exports.png_archive(ids())).items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
  assert (trajectory.read_folder(tmp_path / 'trajectory') == ids()).all()


def test_run_lengths_are_those_of_sa_v(tmp_path):
  path = tmp_path / 'a_manual.json'
  path.write_bytes(exports.run_lengths(motion(), 8.0))
  read = read_annotations(path)
  assert read['masklet_id'] == [1, 2] and len(read['masklet']) == LIMITS.frames
  found = [label_map(masks, SHAPE[1:]) for masks in read['masklet']]
  assert (np.stack(found) == ids()).all()
  assert isinstance(read['masklet'][0][0]['counts'], str) and read['video_duration'] == 1.5


def test_tracks_are_those_of_wan_move(tmp_path):
  files = unpacked(exports.track_archive(motion(), 3))
  for name in ('tracks', 'visibility'):
    (tmp_path / f'{name}.npy').write_bytes(files[f'{name}.npy'])
  points = PointMasks(str(tmp_path / 'tracks.npy'), str(tmp_path / 'visibility.npy'), '', False, '')
  assert points.points.xy.shape == (LIMITS.frames, 6, 2) and points.points.visible.all()
  np.testing.assert_allclose(points.points.xy[:, 0, 0], 7.5 + np.arange(LIMITS.frames))
  for frame, places in zip(ids(), points.points.xy, strict=True):
    columns, rows = np.round(places[[1, 2, 4, 5]]).astype(int).T
    assert frame[rows, columns].tolist() == [1, 1, 2, 2], 'points stay on their objects'
  listed = json.loads(files['tracks.json'])
  assert len(listed) == 6 and listed[0][2] == {'x': 9.5, 'y': 6.5}


def test_a_hidden_point_stays_where_it_was():
  clip = ids()
  clip[5:8][clip[5:8] == 1] = 0
  xy, seen = exports.point_tracks(motion(clip))
  assert seen[:, 0].tolist() == [not 5 <= t < 8 for t in range(LIMITS.frames)]
  assert (xy[5:8, 0] == xy[4, 0]).all()


def test_tracks_come_back_as_the_motion():
  files = unpacked(exports.track_archive(motion()))
  edits = imports.tracks(files['tracks.json'], still(), LIMITS)
  found = Cache().compute(Base.still(ids()[0], LIMITS.frames), edits).ids()
  assert (found == motion().ids()).all()


def test_tracks_of_another_size_and_length():
  track = [[2 * x, 2 * 6.5] for x in (7.5, 18.5)]
  content = json.dumps({'points': [track], 'visible': [[True, True]], 'width': 96, 'height': 64})
  (edit,) = imports.tracks(content.encode(), still(), LIMITS)
  assert edit.values['object'] == 1
  assert [edit.values['path'][str(t)][0] for t in (0, 11)] == [0, 11]


def test_tracks_near_an_object_move_it():
  content = json.dumps([[{'x': 20, 'y': 20}, {'x': 30, 'y': 20}]]).encode()
  (edit,) = imports.tracks(content, still(), LIMITS)
  assert edit.values['object'] == 2 and edit.values['path']['11'] == [10, 0]
  single = json.dumps([{'x': 5, 'y': 5}, {'x': 6, 'y': 5}]).encode()
  assert imports.tracks(single, still(), LIMITS)[0].values['object'] == 1


def test_boxes_move_and_stretch():
  given = {'boxes': {'1': {'0': [4, 4, 12, 10], '11': [15, 4, 31, 16]}, '3': [[0, 0, 4, 4]] * 12}}
  edits = imports.boxes(json.dumps(given).encode(), LIMITS)
  found = Cache().compute(Base.still(ids()[0], LIMITS.frames), edits).ids()
  at = boxes(found)
  assert at[0, 0].tolist() == [4, 4, 12, 10] and at[11, 0].tolist() == [15, 4, 31, 16]
  assert at[5, 2].tolist() == [0, 0, 4, 4]
  doubled = {'boxes': {'1': {'0': [8, 8, 24, 20]}}, 'width': 96, 'height': 64}
  (edit,) = imports.boxes(json.dumps(doubled).encode(), LIMITS)
  assert edit.values['boxes'] == {'0': [4, 4, 12, 10]}


@pytest.mark.parametrize(
  'content, message',
  [
    (b'{', 'boxes is not valid JSON'),
    (b'[]', 'must hold'),
    (b'{"boxes": {}}', 'must hold'),
    (b'{"boxes": {"dog": {}}}', "names an object 'dog'"),
    (b'{"boxes": {"1": {"0": [1, 2]}}}', 'is not \\[x0, y0, x1, y1\\]'),
    (b'{"boxes": {"1": 5}}', 'is not'),
    (b'{"boxes": {"1": {}}}', 'needs "boxes"'),
    (b'{"boxes": {"1": {"0": [1, 2, 3, 4]}}, "width": 0}', '"width" and "height"'),
  ],
)
def test_bad_boxes(content, message):
  with pytest.raises(InputError, match=message):
    imports.boxes(content, LIMITS)


@pytest.mark.parametrize(
  'content, message',
  [
    (b'\xff', 'tracks is not valid JSON'),
    (b'7', 'must be a list of tracks'),
    (b'[[{"x": 1}]]', 'must be a list of tracks'),
    (b'[[[1, 2, 3]]]', 'must be a list of tracks'),
    (b'[[]]', 'must be a list of tracks'),
    (b'[[[NaN, 2]]]', 'far outside'),
    (b'[[[1e9, 2]]]', 'far outside'),
  ],
)
def test_bad_tracks(content, message):
  with pytest.raises(InputError, match=message):
    imports.tracks(content, still(), LIMITS)


def test_tracks_need_an_object():
  nothing = Cache().compute(Base.still(np.zeros(SHAPE[1:], np.uint8), LIMITS.frames), ())
  with pytest.raises(InputError, match='no object that tracks could move'):
    imports.tracks(b'[[[1, 2]]]', nothing, LIMITS)


def white(clip):
  return np.repeat((clip == 1)[..., None] * np.uint8(255), 3, -1)


def animated(frames, kind):
  file = io.BytesIO()
  first, *rest = [Image.fromarray(frame) for frame in frames]
  first.save(file, kind, save_all=True, append_images=rest, duration=100, lossless=True)
  return file.getvalue()


def test_clips_that_are_bright_where_the_object_is(tmp_path):
  write_video(tmp_path / 'mask.mp4', white(ids()), 8.0)
  film = (tmp_path / 'mask.mp4').read_bytes()
  for content, name in ((film, 'a.mp4'), (animated(white(ids()), 'GIF'), 'a.gif')):
    found = imports.clip(content, name, 3, LIMITS)
    assert [*found] == [3] and ((found[3] == 3) == (ids() == 1)).mean() > 0.995
  found = imports.clip(animated(white(ids())[::2], 'WEBP'), 'a.webp', 3, LIMITS)
  assert ((found[3][-1] > 0) == (ids()[10] == 1)).all(), 'fewer frames are stretched'


def test_a_zip_of_masks_keeps_its_numbers():
  found = imports.clip(exports.png_archive(ids()), 'a.zip', 1, LIMITS)
  assert sorted(found) == [1, 2]
  for obj, layer in split(ids()).items():
    assert (found[obj] == layer).all()


def archive(files):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as made:
    for name, data in files.items():
      made.writestr(name, data)
  return file.getvalue()


@pytest.mark.parametrize(
  'content, message',
  [
    (b'', 'a.mp4: '),
    (b'no video at all', 'a.mp4: '),
    (b'GIF89a', 'a.mp4 is damaged'),
    (archive({}), 'a.mp4'),
    (archive({'0.png': b'no image'}), 'not a readable image'),
    (archive({'../../0.png': b'no image'}), 'not a readable image'),
    (exports.png_archive(ids())[:-40], 'a.mp4 is damaged or cut off'),
    (exports.png_archive(ids() * 0), 'shows no object'),
    (animated(white(ids()) * 0, 'GIF'), 'shows no object'),
  ],
)
def test_bad_clips(content, message):
  with pytest.raises(InputError, match=message) as told:
    imports.clip(content, 'a.mp4', 1, LIMITS)
  assert '/tmp' not in str(told.value)


def test_videos(tmp_path):
  frames = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
  gif = exports.video(frames, 8.0, 'gif', scale=3)
  with Image.open(io.BytesIO(gif)) as image:
    assert image.n_frames == LIMITS.frames and image.size == (144, 96)
  with Image.open(io.BytesIO(exports.video(frames, 8.0, 'webp'))) as image:
    assert image.format == 'WEBP' and image.n_frames == LIMITS.frames
  (tmp_path / 'a.mp4').write_bytes(exports.video(frames, 8.0, 'mp4'))
  write_video(tmp_path / 'b.mp4', frames, 8.0)
  assert (tmp_path / 'a.mp4').read_bytes() == (tmp_path / 'b.mp4').read_bytes()


def test_frames_in_one_image():
  frames = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((7, 4, 6, 3), np.uint8)
  grid, columns = exports.sheet(frames)
  for frame in range(7):
    row, column = divmod(frame, columns)
    assert (grid[4 * row : 4 * row + 4, 6 * column : 6 * column + 6] == frame).all()


def test_file_names():
  assert exports.stem('A brown Dog/../runs!') == 'a-brown-dog-runs'
  assert exports.stem('方') == 'motion'
