"""Sources: frames at the right times, masks on the right objects, rejections with reasons."""

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.sources import benchmark, decode
from data_tools.sources.base import Video
from data_tools.sources.captioned import captioned
from data_tools.sources.descriptions import Window, read_captions
from data_tools.sources.mask_interpolation import between
from data_tools.sources.sav import read_annotations, sav_videos
from data_tools.sources.vos import vos_videos
from data_tools.sources.windows import Crop, Cut, bucket, drafts
from tests.helpers import video_fixtures
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.media import video_reader

SHARED = Path(os.environ.get('TTM_SHARED_DATA', '../shared/data'))
real_data = pytest.mark.skipif(
  not (SHARED / 'sav_example').is_dir(),
  reason=f'no real clips under {SHARED}; set TTM_SHARED_DATA to their folder',
)


@pytest.fixture
def rle():
  return pytest.importorskip('pycocotools.mask', reason='pycocotools is not installed')


def window(frames=4, stride=None, fps=12.0, size=(8, 12)):
  return Window(frames, stride or frames, fps, size)


def greys(draft):
  """Return which of `video_fixtures.levels` each frame is."""
  return (draft.video.astype(float).mean((1, 2, 3)) / 10).round().astype(int).tolist()


# Decoding.


def test_frames_of_a_varying_rate_are_taken_by_their_times(tmp_path):
  # Ten frames per second, but frame 3 is held for half a second.
  times = [Fraction(t, 10) for t in (0, 1, 2, 3, 8, 9, 10, 11)]
  path = video_fixtures.save_with(tmp_path / 'a.mp4', video_fixtures.levels(8), times)
  seen = decode.probe(path)
  assert seen.varies and seen.frames == 8 and seen.fps == pytest.approx(7 / 1.1, abs=0.01)
  cut = Cut()
  (draft,) = drafts(Video('a', str(path)), window(6, fps=5), cut)
  # At 0, .2, .4, .6, .8 and 1 s; frame 4 starts at .8.
  assert greys(draft) == [0, 2, 3, 4, 4, 6]
  assert cut.repeated == 1 and 'by time stamps since its rate varies (1 frames' in cut.how


def test_a_constant_rate_in_milliseconds_does_not_vary(tmp_path):
  times = [Fraction(t, 24) for t in range(12)]
  path = video_fixtures.save_with(
    tmp_path / 'a.mkv', video_fixtures.levels(12), times, codec='mpeg4'
  )
  seen = decode.probe(path)
  assert not seen.varies and seen.fps == pytest.approx(24, rel=0.01)
  (draft,) = drafts(Video('a', str(path)), window(6, fps=12))
  assert greys(draft) == [0, 2, 4, 6, 8, 10]


def test_rotated_videos_come_out_upright(tmp_path):
  frames = video_fixtures.levels(4, (32, 48))
  frames[:, :16] = 250  # The upper half, which is the right half after a clockwise quarter turn.
  path = video_fixtures.turn(video_fixtures.save(tmp_path / 'a.mp4', frames))
  assert decode.probe(path).size == (48, 32)
  (draft,) = drafts(Video('a', str(path)), window(size=(24, 16)))
  assert draft.video.shape == (4, 24, 16, 3)
  assert draft.video[0, :, 9:].min() > 230 and draft.video[0, :, :7].max() < 20


def test_odd_sizes_and_ten_bits(tmp_path):
  frames = video_fixtures.levels(4, (33, 47))
  odd = video_fixtures.save_with(
    tmp_path / 'odd.mkv', frames, [Fraction(t, 12) for t in range(4)], 'yuv444p'
  )
  assert decode.probe(odd).size == (33, 47)
  (draft,) = drafts(Video('a', str(odd)), window(size=(11, 15)))
  assert greys(draft) == [0, 1, 2, 3]
  ten = video_fixtures.save_with(
    tmp_path / 'ten.mp4',
    video_fixtures.levels(4),
    [Fraction(t, 12) for t in range(4)],
    'yuv420p10le',
  )
  (draft,) = drafts(Video('a', str(ten)), window())
  assert draft.video.dtype == np.uint8 and greys(draft) == [0, 1, 2, 3]


@pytest.mark.parametrize('transfer, name', [(16, 'PQ'), (18, 'HLG')])
def test_high_dynamic_range_is_refused(tmp_path, transfer, name):
  path = video_fixtures.save_with(
    tmp_path / 'hdr.mp4',
    video_fixtures.levels(4),
    [Fraction(t, 12) for t in range(4)],
    'yuv420p10le',
    transfer=transfer,
  )
  with pytest.raises(InputError, match=rf'hdr\.mp4: high dynamic range \({name}\); map it'):
    decode.probe(path)


def spoil(name, folder):
  path = folder / f'{name}.mp4'
  if name == 'missing':
    return path
  if name == 'text':
    path.write_text('no video')
  elif name == 'empty':
    path.write_bytes(b'')
  elif name == 'sound':
    video_fixtures.save_sound(path)
  elif name == 'nothing':
    video_fixtures.save_empty(path, 'mp4')
  elif name == 'pictureless':
    video_fixtures.save_empty(path, 'avi')
  else:
    rng = np.random.default_rng(0)
    video_fixtures.save(path, rng.integers(0, 255, (30, 32, 48, 3), np.uint8))
    video_fixtures.truncate(path)
  return path


@pytest.mark.parametrize(
  'name, said',
  [
    ('missing', 'there is no such video file; check the path'),
    ('text', 'not a readable video; convert it to mp4'),
    ('empty', 'not a readable video; convert it to mp4'),
    ('sound', 'holds sound and no picture; leave it out'),
    ('nothing', 'holds no frames; replace it'),
    ('pictureless', 'holds no frames; replace it'),
    ('truncated', r'damaged, \d+ of 30 frames are there; replace it'),
  ],
)
def test_files_that_are_no_whole_video_are_refused(tmp_path, name, said):
  path = spoil(name, tmp_path)
  with pytest.raises(InputError, match=rf'{name}\.mp4: {said}'):
    list(drafts(Video('a', str(path)), window()))


# Windows.


def test_windows_may_overlap_or_leave_gaps(tmp_path):
  video = Video('a', str(video_fixtures.save(tmp_path / 'a.mp4', video_fixtures.levels(20))))
  overlapping = list(drafts(video, window(4, 3)))
  assert [greys(d) for d in overlapping[:2]] == [[0, 1, 2, 3], [3, 4, 5, 6]]
  assert [d.key for d in overlapping] == [f'a/{start:05d}' for start in range(0, 17, 3)]
  apart = list(drafts(video, window(3, 7)))
  assert [greys(d) for d in apart] == [[0, 1, 2], [7, 8, 9], [14, 15, 16]]
  assert apart[1].key == 'a/00007' and apart[0].ids is None


def test_a_video_is_never_held_whole(tmp_path, monkeypatch):
  video = Video(
    'a', str(video_fixtures.save(tmp_path / 'a.mp4', video_fixtures.levels(40, step=6)))
  )
  converted = []
  upright = video_reader.upright
  monkeypatch.setattr(video_reader, 'upright', lambda frame: converted.append(1) or upright(frame))
  stream = drafts(video, window(4, 4, fps=6))
  next(stream)
  assert len(converted) == 4  # Of 40: only those of the first window, and only the selected ones.
  next(stream)
  assert len(converted) == 8


def test_pixels_that_are_not_square(tmp_path):
  crop = Crop.central((48, 40), (24, 40), Fraction(2))
  # As displayed it is 48 high and 80 wide, which the size halves: nothing is cropped.
  assert crop.box == (0, 0, 40, 48)
  assert Crop.central((48, 40), (24, 20), Fraction(2)).box == (10, 0, 30, 48)


def test_slow_videos_are_refused(tmp_path):
  video = Video('a', str(video_fixtures.save(tmp_path / 'a.mp4', video_fixtures.levels(8), 6)))
  with pytest.raises(InputError, match='has 6 fps, fewer than the 12 of the clips; give a lower'):
    next(drafts(video, window()))


def test_buckets(tmp_path):
  wide = Video(
    'w', str(video_fixtures.save(tmp_path / 'w.mp4', video_fixtures.levels(10, (32, 64))))
  )
  tall = Video(
    't', str(video_fixtures.save(tmp_path / 't.mp4', video_fixtures.levels(10, (64, 32))))
  )
  windows = [
    window(4, size=(8, 16)),
    window(8, size=(8, 16)),
    window(16, size=(8, 16)),
    window(12, size=(16, 8)),
    window(20, size=(16, 8)),
  ]
  assert bucket(wide, windows) is windows[1]  # The longest window that ten frames fill.
  assert bucket(tall, windows) is windows[3]  # None is filled: the shortest window.
  assert bucket(Video('x', 'nowhere'), windows[:1]) is windows[0]


# Captions.


def stage(folder):
  (folder / 'videos').mkdir()
  for name in ('x', 'y'):
    video_fixtures.save(folder / 'videos' / f'{name}.mp4', video_fixtures.levels(2))
  return folder


def test_tables_of_captions(tmp_path):
  stage(tmp_path)
  (tmp_path / 'metadata.csv').write_text(
    'video,caption,motion\nvideos/y.mp4,"A dog, brown,  runs.",It runs.\nvideos/x.mp4,,\n'
  )
  y, x = captioned(tmp_path)[0]
  assert (y.key, y.description.caption) == ('videos/y', 'A dog, brown, runs.')
  assert y.description.motion == 'It runs.' and x.description.caption == ''
  lines = [{'file_name': 'videos/x.mp4', 'text': 'A [big] cat.'}, {'path': 'videos/y.mp4'}]
  table = tmp_path / 'other.jsonl'
  table.write_text('\n\n'.join(map(json.dumps, lines)))
  x, y = captioned(tmp_path, table)[0]
  assert x.description.caption == 'A [big] cat.' and y.description.caption == ''


def test_captions_beside_their_videos(tmp_path):
  stage(tmp_path)
  (tmp_path / 'labels').mkdir()
  (tmp_path / 'labels' / 'x.txt').write_text('from labels')
  (tmp_path / 'videos' / 'y.txt').write_text('\ufefffrom\nbeside\n')
  x, y = captioned(tmp_path)[0]
  assert (x.description.caption, y.description.caption) == ('from labels', 'from beside')


@pytest.mark.parametrize(
  'table, said',
  [
    ('video,caption\n../a.mp4,x', r'\.\./a\.mp4: is outside of'),
    ('video,caption\n/etc/passwd,x', '/etc/passwd: is outside of'),
    ('video,caption\nvideos/x.mp4,a\nvideos/x.mp4,b', 'two videos have the name "videos/x"'),
    ('caption\na', 'entry 1 has no video'),
    ('video,caption', 'contains no videos'),
    ('video,caption\nvideos/x.mp4,"a', 'is not valid CSV'),
  ],
)
def test_tables_are_checked(tmp_path, table, said):
  stage(tmp_path)
  (tmp_path / 'captions.csv').write_text(table)
  with pytest.raises(InputError, match=said):
    captioned(tmp_path)[0]


def test_links_may_not_lead_out(tmp_path):
  outside, inside = tmp_path / 'outside', tmp_path / 'inside'
  outside.mkdir()
  inside.mkdir()
  video_fixtures.save(outside / 'x.mp4', video_fixtures.levels(2))
  (inside / 'x.mp4').symlink_to(outside / 'x.mp4')
  with pytest.raises(InputError, match=r'x\.mp4: is outside of'):
    captioned(inside)[0]


# Mask images.


def test_layouts_of_label_pictures(tmp_path):
  ids = np.zeros((6, 32, 48), np.uint8)
  for t in range(6):
    ids[t, 8:16, 4 * t : 4 * t + 8] = 2
  video_fixtures.object_video(tmp_path / 'a' / 'dog', ids)
  frames = np.where((ids > 0)[..., None], np.uint8(250), video_fixtures.levels(6))
  for place in ('b/dog/{}', 'c/{}/480p/dog'):
    pictures = tmp_path / place.format('JPEGImages')
    pictures.mkdir(parents=True)
    for t, frame in enumerate(frames):
      Image.fromarray(frame).save(pictures / f'{t}.jpg', quality=95)
    trajectory.write_folder(tmp_path / place.format('Annotations'), ids)
  crop = Crop.central((32, 48), (16, 24))
  wanted = np.stack([crop.labels(frame) for frame in ids])
  assert (wanted == ids[:, 1::2, 1::2]).all()
  for root in 'abc':
    (video,) = vos_videos(tmp_path / root, None, fps=12)
    (draft,) = drafts(video, window(6, size=(16, 24)))
    assert draft.key == 'dog/00000'
    np.testing.assert_array_equal(draft.ids, wanted)
    assert ((draft.video[..., 0] > 140) == (wanted > 0)).mean() > 0.98
  (video,) = vos_videos(tmp_path / 'b', None)
  with pytest.raises(InputError, match='a folder of images has no frame rate; give --source_fps'):
    next(drafts(video, window()))


@pytest.mark.parametrize(
  'picture, said',
  [
    (
      Image.fromarray(np.arange(10, dtype=np.uint8).repeat(160)[:1536].reshape(32, 48)),
      'masks: holds 9 objects, but there can be 8',
    ),
    (
      Image.fromarray(np.full((32, 48, 3), (200, 30, 30), np.uint8)),
      'masks: no pixel is black, so that its colors do not tell the background',
    ),
    (None, r'masks/00002\.png: not a readable image; save the mask as PNG'),
  ],
)
def test_label_pictures_are_checked(tmp_path, picture, said):
  video_fixtures.object_video(tmp_path / 'dog', np.ones((4, 32, 48), np.uint8))
  bad = tmp_path / 'dog' / 'masks' / '00002.png'
  bad.write_text('x') if picture is None else picture.save(bad)
  (video,) = vos_videos(tmp_path, None)
  with pytest.raises(InputError, match=said):
    list(drafts(video, window()))


# SA-V.


def encoded(rle, masks):
  found = rle.encode(np.asfortranarray(masks.astype(np.uint8)))
  return {'size': [int(x) for x in found['size']], 'counts': found['counts'].decode()}


def write_sav(folder, rle, masklets, kind='manual', name='v1'):
  """Write annotations of masklets: bool [masklet, annotated frame, H, W]."""
  folder.mkdir(exist_ok=True)
  content = {
    'video_id': name,
    'masklet_id': list(range(len(masklets))),
    'masklet': [[encoded(rle, m[i]) for m in masklets] for i in range(len(masklets[0]))],
  }
  (folder / f'{name}_{kind}.json').write_text(json.dumps(content))


def moving(count=3, size=(32, 48)):
  """Return a square of 8 pixels that moves by 4 pixels between annotations."""
  masks = np.zeros((count, *size), bool)
  for i in range(count):
    masks[i, 10:18, 4 + 4 * i : 12 + 4 * i] = True
  return masks


def test_masklets_are_interpolated_and_exact_where_annotated(tmp_path, rle):
  video_fixtures.save(tmp_path / 'v1.mp4', video_fixtures.levels(10), 24)
  still = np.zeros((3, 32, 48), bool)
  still[:, 8:28, 2:40] = True  # It is larger and therefore behind.
  write_sav(tmp_path, rle, [moving(), still])
  write_sav(tmp_path, rle, [moving()[:, ::-1]], 'auto')
  (video,), left_out = sav_videos(tmp_path)
  assert left_out == []
  (draft,) = drafts(video, window(10, fps=24, size=(32, 48)))
  for t in range(10):
    along = min(t, 8)  # One pixel per frame; the last annotation is at frame 8.
    wanted = np.zeros((32, 48), np.uint8)
    wanted[8:28, 2:40] = 2
    wanted[14:22, 4 + along : 12 + along] = 3  # From the auto file, which is upside down.
    wanted[10:18, 4 + along : 12 + along] = 1
    differs = (draft.ids[t] != wanted).mean()
    assert differs == 0 if t % 4 == 0 or t > 8 else differs < 0.02, t
  (slow,) = drafts(video, window(3, fps=6, size=(32, 48)))
  np.testing.assert_array_equal(slow.ids, draft.ids[[0, 4, 8]])
  only = sav_videos(tmp_path, kinds=['manual'])[0][0]
  assert next(drafts(only, window(2, fps=24))).ids.max() == 2


def test_shapes_between_two():
  (a, b) = moving(2).astype(np.uint8) * 7
  halfway = between(a, b, 0.5)
  np.testing.assert_array_equal(np.argwhere(halfway == 7).min(0), [10, 6])
  np.testing.assert_array_equal(np.argwhere(halfway == 7).max(0), [17, 13])
  assert between(a, b, 0) is a and between(a, b, 1) is b
  # An object at one end only stays until the middle.
  np.testing.assert_array_equal(between(a, b * 0, 0.25), a)
  assert not between(a, b * 0, 0.75).any()
  # A small object is in front of a large one; the annotations do not overlap.
  large = np.zeros((32, 48), np.uint8)
  large[2:30, 2:44] = 3
  (a, b), ball = (np.where(m > 0, 7, large).astype(np.uint8) for m in moving(2)), halfway == 7
  np.testing.assert_array_equal(between(a, b, 0.5) == 7, ball)
  # A growing disk has the intermediate radius.
  y, x = np.indices((40, 40)) - 20
  small, large = ((x**2 + y**2 <= r**2).astype(np.uint8) for r in (5, 11))
  assert (between(small, large, 0.5)).sum() == pytest.approx(np.pi * 8**2, rel=0.05)


def test_annotations_that_do_not_fit_are_refused(tmp_path, rle):
  video_fixtures.save(tmp_path / 'v1.mp4', video_fixtures.levels(8), 24)

  def said(*masklets, **options):
    write_sav(tmp_path, rle, masklets, **options)
    with pytest.raises(InputError) as caught:
      next(drafts(sav_videos(tmp_path)[0][0], window(2, fps=24)))
    return str(caught.value)

  assert re.search(r'annotates frame 8, but .*v1\.mp4 ends with frame 7', said(moving(3)))
  assert re.search(r'its masks are 24x16, but .* is 48x32', said(moving(2, (16, 24))))
  write_sav(tmp_path, rle, [moving(2)])
  content = json.loads((tmp_path / 'v1_manual.json').read_text())
  content['masklet'][1].append(content['masklet'][1][0])
  (tmp_path / 'v1_manual.json').write_text(json.dumps(content))
  with pytest.raises(InputError, match='a frame does not have one mask per masklet'):
    read_annotations(tmp_path / 'v1_manual.json')
  # A mask with fewer pixels than it declares; the decoder would invent the rest.
  write_sav(tmp_path, rle, [moving(2)])
  content = json.loads((tmp_path / 'v1_manual.json').read_text())
  content['masklet'][1][0]['counts'] = encoded(rle, moving(1, (16, 24))[0])['counts']
  (tmp_path / 'v1_manual.json').write_text(json.dumps(content))
  with pytest.raises(InputError, match=r'annotated frame 1: the run lengths of a mask do not give'):
    list(drafts(sav_videos(tmp_path)[0][0], window(8, fps=24)))
  content['masklet'][1][0]['size'] = [16, 24]
  (tmp_path / 'v1_manual.json').write_text(json.dumps(content))
  with pytest.raises(InputError, match='its masks have 2 different sizes; download it again'):
    read_annotations(tmp_path / 'v1_manual.json')
  write_sav(tmp_path, rle, [moving(2)] * 2)
  content = json.loads((tmp_path / 'v1_manual.json').read_text()) | {'masklet_id': [4, 4]}
  (tmp_path / 'v1_manual.json').write_text(json.dumps(content))
  with pytest.raises(InputError, match='two masklets have the same id; download it again'):
    read_annotations(tmp_path / 'v1_manual.json')
  (tmp_path / 'v1_manual.json').write_text('{"masklet": 3}')
  with pytest.raises(InputError, match='not an annotation of SA-V'):
    read_annotations(tmp_path / 'v1_manual.json')


def test_benchmark_videos_are_left_out(tmp_path, rle):
  for name in ('v1', 'v2'):
    video_fixtures.save(tmp_path / f'{name}.mp4', video_fixtures.levels(8), 24)
    write_sav(tmp_path, rle, [moving(2)], name=name)
  (tmp_path / 'list.txt').write_text('# of the benchmark\nv1  # single\n')
  videos, left_out = sav_videos(
    tmp_path, excluded=benchmark.excluded_ids(str(tmp_path / 'list.txt'))
  )
  assert [v.key for v in videos] == ['v2'] and left_out == ['v1']
  with pytest.raises(InputError, match='except 2 that --exclude lists'):
    sav_videos(tmp_path, excluded=frozenset(['v1', 'v2']))


def test_the_list_of_the_benchmark_comes_from_the_hub(tmp_path, monkeypatch):
  """Any file layout works. If the list is not available, no video is included by mistake."""
  import huggingface_hub
  from pyarrow import parquet, table

  (tmp_path / 'data').mkdir()
  (tmp_path / 'meta.csv').write_text('video,frame\nsav_000007.mp4,0\nsav_0000081,3\n')
  (tmp_path / 'all.jsonl').write_text('{"id": "sav_000009"}\n')
  (tmp_path / 'README.md').write_text('sav_000099')
  rows = {'video': [{'bytes': b'sav_000098', 'path': 'x/sav_000010.mp4'}], 'n': [3]}
  parquet.write_table(table(rows), tmp_path / 'data' / 'a.parquet')
  asked = []

  def snapshot(**wanted):
    asked.append(wanted)
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)
  monkeypatch.setattr(huggingface_hub, 'list_repo_files', lambda **_: ['videos/sav_000011.mp4'])
  listed = benchmark.excluded_ids(benchmark.SAV_128)
  assert listed == {f'sav_0000{n}' for n in ('07', '09', '10', '11')}
  assert asked[0]['repo_id'] == 'GuyYariv/SA-V-128-Benchmark' and asked[0]['repo_type'] == 'dataset'
  assert benchmark.excluded_ids('none') == frozenset()
  for file in tmp_path.rglob('*.*'):
    file.write_text('nothing') if file.suffix == '.csv' else file.unlink()
  with pytest.raises(InputError, match=r'contains no id of a SA-V video \(sav_NNNNNN\); give'):
    benchmark.excluded_ids('some/one', offline=True)

  def refused(**_):
    raise ConnectionError('no network')

  monkeypatch.setattr(huggingface_hub, 'list_repo_files', refused)
  monkeypatch.setattr(huggingface_hub, 'snapshot_download', refused)
  for offline, reason in ((False, 'ConnectionError'), (True, '--offline is given, and it is not')):
    with pytest.raises(InputError, match=rf'SA-V-128-Benchmark \({reason}') as caught:
      benchmark.excluded_ids(benchmark.SAV_128, offline)
    assert 'give --exclude FILE with one id per line, or --exclude none' in str(caught.value)
  (tmp_path / 'empty.txt').write_text('# none\n')
  with pytest.raises(InputError, match=r'empty\.txt: contains no id'):
    benchmark.excluded_ids(str(tmp_path / 'empty.txt'))
  with pytest.raises(InputError, match=r'list\.txt: cannot be read; give a text file'):
    benchmark.excluded_ids('no/list.txt')


def test_runs_of_a_mask_are_counted(rle):
  from data_tools.sources.sav import counts_of

  rng = np.random.default_rng(0)
  for density in (0, 0.02, 0.5, 1):
    mask = rng.random((37, 23)) < density
    column = np.concatenate([[0], mask.ravel(order='F'), [2]])
    ends = np.flatnonzero(np.diff(column))
    wanted = np.diff(np.concatenate([[0], ends])).tolist()
    assert counts_of(encoded(rle, mask)['counts']) == wanted


def test_ids_are_not_given_twice(tmp_path, rle):
  for folder in ('a', 'b'):
    write_sav(tmp_path / folder, rle, [moving(2)])
    video_fixtures.save(tmp_path / folder / 'v1.mp4', video_fixtures.levels(8), 24)
  with pytest.raises(InputError, match='two videos have the name "v1"; rename one'):
    sav_videos(tmp_path)
  video_fixtures.save(tmp_path / 'a' / 'v1.mov', video_fixtures.levels(2))
  (video,) = captioned(tmp_path / 'a')[0]
  assert video.path == str(tmp_path / 'a' / 'v1.mp4')
  entry = '{"c": "A dog.", "c_motion": "It runs.", "c_local": {"1": "a dog"}}'
  (tmp_path / 'c.json').write_text(f'{{"dog": {entry}, "dog": {entry}}}')
  with pytest.raises(InputError, match=r'c\.json: has two entries "dog"; remove one'):
    read_captions(tmp_path / 'c.json')


def test_keys_may_not_lead_out(tmp_path):
  video_fixtures.object_video(tmp_path / 'outside', np.ones((4, 32, 48), np.uint8))
  (tmp_path / 'inside').mkdir()
  said = read_entry(tmp_path)
  (video,) = vos_videos(tmp_path / 'inside', {'../outside': said})
  assert re.match(r'\.\./outside: is outside of .*/inside; give a path inside it', video.problem)
  with pytest.raises(InputError, match='is outside of'):
    next(drafts(video, window()))


def read_entry(folder):
  entry = {'c': 'A dog.', 'c_motion': 'It runs.', 'c_local': {'1': 'a dog'}}
  (folder / 'c.json').write_text(json.dumps({'x': entry}))
  return read_captions(folder / 'c.json')['x']


@real_data
@pytest.mark.parametrize('kind', ['manual', 'auto'])
def test_real_masklets_have_their_recorded_sizes_and_changes(rle, kind):
  from data_tools.sources.sav import decode_rle

  content = read_annotations(SHARED / 'sav_example' / f'sav_000001_{kind}.json')
  for j, size in enumerate(content['masklet_size_abs']):
    areas = np.array([decode_rle(frame[j]).sum() for frame in content['masklet']])
    seen = areas > 0
    assert areas[seen].mean() == pytest.approx(size, abs=5e-11)
    assert seen.argmax() == content['masklet_first_appeared_frame'][j]
    if kind == 'manual':
      seen = seen[seen.argmax() :]  # The appearance itself is not a change there.
    assert (seen[1:] != seen[:-1]).sum() == content['masklet_visibility_changes'][j]


def iou(a, b):
  return (a & b).sum() / (a | b).sum()


@real_data
def test_real_pairs_have_pixels_and_masks_aligned(rle):
  """Masks of every fourth frame are exact; between, closer to the truth than repeated masks."""
  videos, _ = sav_videos(SHARED / 'sav_format')
  captions = read_captions(SHARED / 'captions.json')
  assert [v.key for v in videos] == ['savfmt_cups_a', 'savfmt_juggle_a']
  for video in videos:
    name = video.key.removeprefix('savfmt_')
    masks = trajectory.read_folder(SHARED / 'sam2_pseudo' / name / 'masks')
    draft = next(drafts(video, window(40, fps=24, size=(90, 160))))
    crop = Crop.central(masks.shape[1:], (90, 160))
    true = np.stack([crop.labels(frame) for frame in masks[:40]])
    np.testing.assert_array_equal(draft.ids[::4], true[::4])
    nearest = true[(np.arange(40) + 1) // 4 * 4 % 40]
    for obj in set(np.unique(true[0])) - {0}:
      assert iou(draft.ids[:37] == obj, true[:37] == obj) > iou(
        nearest[:37] == obj, true[:37] == obj
      )
    assert captions[f'sam2_pseudo/{name}'].prompts.keys() >= set(np.unique(true)) - {0}
  # The ball of the second video is white at annotated frames.
  for t in range(0, 40, 4):
    ball = draft.video[t][draft.ids[t] == 2]
    assert ball.mean() > draft.video[t].mean() + 30, t
