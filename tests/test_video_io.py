"""Videos keep their frames, order, colors and frame rate."""

import io
import math

import av
import numpy as np
import pytest
import skimage

from ttm_jax.errors import InputError
from ttm_jax.media import video_io, video_reader
from ttm_jax.scenes import generator as scenes


def noise(shape):
  return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


def psnr(a, b):
  return 10 * math.log10(255**2 / np.mean((a - b) ** 2))


@pytest.mark.parametrize('shape', [(5, 33, 47), (1, 16, 16), (9, 8, 70)])
def test_encoded_videos_come_back_bit_for_bit(shape):
  frames = noise(shape)
  decoded, fps = video_io.decode_video(video_io.encode_video(frames, 23.976))
  np.testing.assert_array_equal(decoded, frames)
  assert fps == 23.976


def test_equal_frames_give_equal_bytes(tmp_path):
  photo = skimage.data.astronaut()
  frames = np.stack([photo[100 + 2 * t :, 100 + 3 * t :][:48, :56] for t in range(8)])
  encoded, written, elsewhere = set(), set(), []
  for i in range(16):  # The result of x264's fastest preset depends on its buffer addresses.
    elsewhere.append(np.ones(7919 * i))
    encoded.add(video_io.encode_video(frames, 8))
    video_io.write_video(tmp_path / 'a.mp4', frames, 8)
    written.add((tmp_path / 'a.mp4').read_bytes())
  assert len(encoded) == len(written) == 1


def test_written_videos_play_in_a_browser(tmp_path):
  path = tmp_path / 'new' / 'a.mp4'
  video_io.write_video(path, noise((3, 16, 16)), 8)
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    assert (stream.codec_context.name, stream.pix_fmt) == ('h264', 'yuv420p')
  content = path.read_bytes()
  assert 0 < content.find(b'moov') < content.find(b'mdat')
  assert [file.name for file in path.parent.iterdir()] == ['a.mp4']


def test_written_videos_keep_order_color_and_rate(tmp_path):
  colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 250, 10], [90, 90, 90]])
  frames = np.broadcast_to(colors[:, None, None].astype(np.uint8), (5, 32, 48, 3))
  video_io.write_video(tmp_path / 'a.mp4', frames, 29.97)
  read, fps = video_reader.read_video(tmp_path / 'a.mp4')
  np.testing.assert_allclose(read.astype(int), frames.astype(int), atol=3)
  assert fps == pytest.approx(29.97, abs=1e-9)


def test_written_videos_lose_little_of_a_scene(tmp_path):
  frames = scenes.scene(scenes.SceneConfig(size=(64, 64)), 1).video
  video_io.write_video(tmp_path / 'a.mp4', frames, 8)
  read, _ = video_reader.read_video(tmp_path / 'a.mp4')
  luma = [video @ [0.2126, 0.7152, 0.0722] for video in (read, frames)]
  assert psnr(*luma) > 40  # Color has half the resolution.


def test_odd_sizes_are_padded_from_the_edge(tmp_path):
  frames = np.full((2, 33, 47, 3), 40, np.uint8)
  frames[:, :, 46] = frames[:, 32] = 220
  video_io.write_video(tmp_path / 'a.mp4', frames, 8)
  read, _ = video_reader.read_video(tmp_path / 'a.mp4')
  assert read.shape == (2, 34, 48, 3)
  np.testing.assert_allclose(read[:, 33].astype(int), 220, atol=12)
  np.testing.assert_allclose(read[:, :, 47].astype(int), 220, atol=12)
  np.testing.assert_allclose(read[:, 10, 10].astype(int), 40, atol=12)


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'a.mp4'
  video_io.write_video(path, noise((2, 16, 16)), 8)
  before = path.read_bytes()

  def fail(container, *args):
    container.add_stream('libx264', 8)
    raise KeyboardInterrupt

  monkeypatch.setattr(video_io, '_encode', fail)
  with pytest.raises(KeyboardInterrupt):
    video_io.write_video(path, noise((9, 16, 16)), 8)
  assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.mp4']


def test_streaming_is_reading_one_by_one(tmp_path):
  video_io.write_video(tmp_path / 'a.mp4', noise((4, 16, 16)), 8)
  fps, frames = video_reader.stream_video(tmp_path / 'a.mp4')
  read, _ = video_reader.read_video(tmp_path / 'a.mp4')
  np.testing.assert_array_equal(np.stack(list(frames)), read)
  assert fps == 8


def test_unusable_videos_are_named(tmp_path):
  with pytest.raises(InputError, match=r'none\.mp4: there is no such video'):
    video_reader.read_video(tmp_path / 'none.mp4')
  (tmp_path / 'text.mp4').write_text('not a video')
  with pytest.raises(InputError, match=r'text\.mp4: not a readable video'):
    video_reader.read_video(tmp_path / 'text.mp4')
  video_io.write_video(tmp_path / 'a.mp4', noise((9, 64, 64)), 8)
  content = (tmp_path / 'a.mp4').read_bytes()
  (tmp_path / 'cut.mp4').write_bytes(content[: len(content) // 2])
  with pytest.raises(InputError, match=r'cut\.mp4: damaged, \d of 9 frames are there'):
    video_reader.read_video(tmp_path / 'cut.mp4')
  sound = io.BytesIO()
  with av.open(sound, 'w', 'wav') as container:
    stream = container.add_stream('pcm_s16le', 8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), 's16', 'mono')
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
  (tmp_path / 'sound.wav').write_bytes(sound.getvalue())
  with pytest.raises(InputError, match=r'sound\.wav: not a readable video'):
    video_reader.read_video(tmp_path / 'sound.wav')
  with pytest.raises(InputError, match='3 bytes are not an encoded video'):
    video_io.decode_video(b'abc')


@pytest.mark.parametrize(
  'frames, fps, complaint',
  [
    (np.zeros((0, 4, 4, 3), np.uint8), 8, r'got uint8 \(0, 4, 4, 3\)'),
    (np.zeros((2, 4, 4, 3), np.float32), 8, 'got float32'),
    (np.zeros((2, 4, 4), np.uint8), 8, r'\(2, 4, 4\)'),
    (np.zeros((2, 4, 4, 3), np.uint8), 0, 'must be positive, got 0'),
  ],
)
def test_what_is_no_video_is_refused(frames, fps, complaint):
  with pytest.raises(InputError, match=complaint):
    video_io.encode_video(frames, fps)
