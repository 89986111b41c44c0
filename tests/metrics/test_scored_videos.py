"""Folders of generated videos: names, formats, and what deviates from the clips."""

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.scored import FPS, FRAMES, HEIGHT, KEYS, WIDTH, save_videos
from ttm_jax.errors import InputError
from ttm_jax.media import animations
from ttm_jax.media.video_io import write_video
from ttm_jax.metrics.references import Header
from ttm_jax.metrics.scored_videos import (
  inspect,
  parse_allow,
  read_fitted,
  stem_of,
  stems_of,
)

HEADERS = [Header(i, key, (FRAMES, HEIGHT, WIDTH), FPS) for i, key in enumerate(KEYS)]
ALL = ('missing', 'fps', 'length', 'size')


def refusal(call, *args):
  with pytest.raises(InputError) as caught:
    call(*args)
  return str(caught.value)


def video(value, frames=FRAMES, height=HEIGHT, width=WIDTH):
  """Return a video whose frame t has the gray value + 10 t."""
  grays = (value + 10 * np.arange(frames)).astype(np.uint8)
  return np.broadcast_to(grays[:, None, None, None], (frames, height, width, 3)).copy()


def test_names():
  assert stem_of('a/0001') == 'a_0001' and stem_of('Über #1.x') == 'Über__1.x'
  assert stem_of('.hidden') == '_hidden' and len(stem_of('ü' * 300).encode()) == 200
  assert stems_of(KEYS) == {'a_0001': 'a/0001', 'b': 'b', 'c_c': 'c c', 'd': 'd'}
  assert refusal(stems_of, ['a/b', 'a_b']) == (
    "the clips 'a/b' and 'a_b' would have one video name, a_b: rename one in the dataset"
  )


def test_allow():
  assert parse_allow('') == frozenset() and parse_allow('size,fps') == {'size', 'fps'}
  assert refusal(parse_allow, 'missing,sise') == (
    '--allow=missing,sise: "sise" cannot be allowed (did you mean "size"?); choose from missing,'
    ' fps, length, size'
  )


def test_one_video_for_each_clip(tmp_path):
  found = inspect(save_videos(tmp_path), HEADERS)
  assert found.seeds == (0,) and not found.notes
  assert [place[0] for place in found.paths] == list(KEYS)
  assert found.lengths == dict.fromkeys(KEYS, FRAMES)
  for number, header in enumerate(HEADERS):
    read = read_fitted(found.paths[header.key, 0], header, FRAMES)
    np.testing.assert_allclose(read, 40.0 * (number + 1), atol=2)
    assert read.shape == (FRAMES, HEIGHT, WIDTH, 3) and read.dtype == np.uint8


def test_seeds(tmp_path):
  for seed in (3, 12):
    save_videos(tmp_path, seed, seed=seed)
  found = inspect(tmp_path, HEADERS)
  assert found.seeds == (3, 12) and len(found.paths) == 8
  assert found.paths['b', 12].name == 'b__12.mp4'
  (tmp_path / 'd__12.mp4').unlink()
  said = refusal(inspect, tmp_path, HEADERS)
  assert said == (
    f'{tmp_path}: 1 of 4 clips have no readable video of every seed (d): generate them, or give'
    ' --allow=missing to score the other clips'
  )


def test_other_formats(tmp_path):
  write_video(tmp_path / 'b.webm', video(10), FPS)  # An mp4 under another name is read as well.
  (tmp_path / 'c_c.gif').write_bytes(animations.gif(video(50), 7.9))  # Delays of 130, not 125 ms.
  for t, frame in enumerate(video(90)):
    (tmp_path / 'd').mkdir(exist_ok=True)
    Image.fromarray(frame).save(tmp_path / 'd' / f'{t}.png')
  with av.open(str(tmp_path / 'a_0001.webm'), 'w') as container:
    stream = container.add_stream('libvpx-vp9', int(FPS))
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
    for frame in video(130):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode(None))
  found = inspect(tmp_path, HEADERS)
  assert not found.notes
  for header, value in zip(HEADERS, (130, 10, 50, 90), strict=True):
    read = read_fitted(found.paths[header.key, 0], header, FRAMES)
    np.testing.assert_allclose(read, video(value), atol=4)


def test_names_that_cannot_be_told_apart(tmp_path):
  save_videos(tmp_path)
  (tmp_path / 'b__0.mp4').write_bytes(b'')
  assert refusal(inspect, tmp_path, HEADERS) == (
    f"{tmp_path}: b.mp4 and b__0.mp4 are both the video of clip 'b', seed 0: remove one"
  )
  twins = [Header(0, 'b', (4, 4, 4), 8), Header(1, 'b__0', (4, 4, 4), 8)]
  assert refusal(inspect, tmp_path, twins).startswith("b__0 names clip 'b__0' and a seed of clip")


def test_a_folder_without_videos_of_the_clips(tmp_path):
  assert refusal(inspect, tmp_path / 'no', HEADERS) == (
    f'{tmp_path}/no: there is no such folder of videos; check the path'
  )
  write_video(tmp_path / 'x.mp4', video(0), FPS)
  assert refusal(inspect, tmp_path, HEADERS, ALL) == (
    f'{tmp_path} has no video of any of the 4 clips: name them as a_0001.mp4 (there is none, only'
    ' x.mp4)'
  )


def test_missing_videos(tmp_path):
  save_videos(tmp_path, keys=KEYS[:2])
  said = refusal(inspect, tmp_path, HEADERS)
  assert said.startswith(f'{tmp_path}: 2 of 4 clips have no readable video of every seed (c c; d):')
  found = inspect(tmp_path, HEADERS, ['missing'])
  assert set(found.lengths) == {'a/0001', 'b'}
  assert found.notes == (
    f'{tmp_path}: 2 of 4 clips have no readable video of every seed; not scored (c c; d)',
  )


def test_unreadable_videos_are_listed(tmp_path):
  save_videos(tmp_path)
  (tmp_path / 'b.mp4').write_bytes(b'no video')
  said = refusal(inspect, tmp_path, HEADERS)
  assert said == (
    f'1 of 4 videos cannot be read ({tmp_path}/b.mp4: not a readable video; convert it to mp4):'
    ' replace them, or give --allow=missing to score the other clips'
  )
  found = inspect(tmp_path, HEADERS, ['missing'])
  assert set(found.lengths) == {*KEYS} - {'b'} and len(found.notes) == 2
  assert found.notes[0].startswith(f'{tmp_path}: cannot be read and not scored: {tmp_path}/b.mp4')
  for name in ('a_0001', 'c_c', 'd'):
    (tmp_path / f'{name}.mp4').write_bytes(b'no video')
  assert refusal(inspect, tmp_path, HEADERS, ALL) == (
    f'{tmp_path} has a readable video of every seed for no clip: generate them anew'
  )


def test_images_of_several_sizes_cannot_be_read(tmp_path):
  save_videos(tmp_path)
  (tmp_path / 'b.mp4').unlink()
  (tmp_path / 'b').mkdir()
  for side in (8, 9):
    Image.new('RGB', (side, side)).save(tmp_path / 'b' / f'{side}.png')
  assert 'b: its images differ in size; convert them to one' in refusal(inspect, tmp_path, HEADERS)


@pytest.mark.parametrize(
  'fps, frames, chosen',
  [
    (16.0, 8, [0, 2, 4, 6]),
    (4.0, 2, [0, 0, 1, 1]),
    (12.0, 6, [0, 1, 3, 4]),
    (8.03, 4, [0, 1, 2, 3]),
  ],
)
def test_other_frame_rates(tmp_path, fps, frames, chosen):
  save_videos(tmp_path)
  write_video(tmp_path / 'b.mp4', video(20, frames), fps)
  if fps != 8.03:  # That is within 0.5 %.
    said = refusal(inspect, tmp_path, HEADERS, ['missing', 'length', 'size'])
    assert said == (
      f'{tmp_path}: another frame rate than that of the clip in 1 video (b.mp4 has {fps:g} per'
      ' second, not 8): convert them, or give --allow=fps to take the frame shown at the time of'
      ' each frame'
    )
  found = inspect(tmp_path, HEADERS, ['fps'])
  assert found.lengths['b'] == FRAMES
  read = read_fitted(found.paths['b', 0], HEADERS[1], FRAMES)
  np.testing.assert_allclose(read[:, 0, 0, 0], 20 + 10.0 * np.array(chosen), atol=3)


def test_other_lengths(tmp_path):
  save_videos(tmp_path)
  write_video(tmp_path / 'b.mp4', video(20, 3), FPS)
  write_video(tmp_path / 'd.mp4', video(20, 9), FPS)
  said = refusal(inspect, tmp_path, HEADERS, ['missing', 'fps', 'size'])
  assert said == (
    f'{tmp_path}: another number of frames than that of the clip in 2 videos (b.mp4 has 3, not 4;'
    ' d.mp4 has 9, not 4): generate them anew, or give --allow=length to cut all to the common'
    ' length'
  )
  found = inspect(tmp_path, HEADERS, ['length'])
  assert found.lengths == {'a/0001': 4, 'b': 3, 'c c': 4, 'd': 4}
  assert 'clips and videos were cut to the common length' in found.notes[0]


def test_other_sizes(tmp_path):
  save_videos(tmp_path)
  stripes = video(0, height=2 * HEIGHT, width=4 * WIDTH)
  stripes[:, :, WIDTH : 3 * WIDTH] = 200
  stripes[:, :, ::2] //= 2  # Alternating columns average out with antialiasing.
  write_video(tmp_path / 'b.mp4', stripes, FPS)
  said = refusal(inspect, tmp_path, HEADERS, ['missing', 'fps', 'length'])
  assert said == (
    f'{tmp_path}: another size than that of the clip in 1 video (b.mp4 is 128x48, not 32x24):'
    ' generate them anew, or give --allow=size to resize and crop them'
  )
  found = inspect(tmp_path, HEADERS, ['size'])
  read = read_fitted(found.paths['b', 0], HEADERS[1], FRAMES)
  assert read.shape == (FRAMES, HEIGHT, WIDTH, 3)
  np.testing.assert_allclose(read[:, 3:-3, 3:-3], 150, atol=8)


def test_padding_of_odd_sizes_is_cropped(tmp_path):
  odd = video(30, height=23, width=31)
  write_video(tmp_path / 'b.mp4', odd, FPS)
  header = Header(0, 'b', (FRAMES, 23, 31), FPS)
  found = inspect(tmp_path, [header])
  assert not found.notes
  assert read_fitted(found.paths['b', 0], header, FRAMES).shape == odd.shape
