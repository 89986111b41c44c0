"""Videos of every kind are read as players show them: same frames, upright, same times."""

import itertools
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window
from data_tools.sources.vos import video_of, vos_videos
from data_tools.sources.windows import drafts, expected
from tests.helpers import video_fixtures
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.media import video_io, video_reader

RATE = 12
# By name: a, b, c, d of the display matrix. Symmetry cannot hide an error:
# `video_fixtures.film` looks different under each.
MATRICES = {
  'none': (1, 0, 0, 1),
  'quarter clockwise': (0, 1, -1, 0),
  'half': (-1, 0, 0, -1),
  'quarter counterclockwise': (0, -1, 1, 0),
  'left to right': (-1, 0, 0, 1),
  'upside down': (1, 0, 0, -1),
  'transposed': (0, 1, 1, 0),
  'transposed and half': (0, -1, -1, 0),
}


def moments(count, start=0):
  return [Fraction(start + t, RATE) for t in range(count)]


def placed(frame, matrix):
  """Move each pixel (x, y) of a frame to (a x + c y, b x + d y)."""
  a, b, c, d = matrix
  y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
  right, down = a * x + c * y, b * x + d * y
  right, down = right - right.min(), down - down.min()
  result = np.empty((down.max() + 1, right.max() + 1, 3), np.uint8)
  result[down, right] = frame
  return result


def decoded(path, stream=0):
  """Return the frames as PyAV decodes them, in stored orientation."""
  with av.open(str(path), metadata_errors='ignore') as container:
    return [f.to_ndarray(format='rgb24') for f in container.decode(video=stream)]


def check(path, numbers, times=None, matrix=MATRICES['none'], stream=0):
  """Check that a video shows these frames of `video_fixtures.film`, with PyAV's pixels."""
  read, fps = video_reader.read_video(path)
  assert video_fixtures.numbers(read) == list(numbers)
  np.testing.assert_array_equal(read, [placed(f, matrix) for f in decoded(path, stream)])
  seen = video_reader.probe(path)
  assert (seen.frames, *seen.size) == read.shape[:3]
  assert seen.fps == pytest.approx(fps)
  found = [frame.time for frame in video_reader.frames(path, seen)]
  wanted = moments(len(read)) if times is None else [t - times[0] for t in times]
  np.testing.assert_allclose([float(t) for t in found], [float(t) for t in wanted], atol=6e-3)
  if times is None and len(read) > 1:
    assert not seen.varies and fps == pytest.approx(RATE, rel=1e-2)
  return seen


# Container, codec and pixel format; features of a track are tested with mp4 and mov.
KINDS = {
  'a.mp4': ('libx264', 'yuv420p', {'crf': '4', 'bf': '2'}, None),
  'b.mov': ('libx264', 'yuv422p10le', {'crf': '4', 'bf': '0'}, None),
  'c.mp4': ('libx264', 'yuv444p', {'crf': '4', 'bf': '3', 'g': '4'}, None),
  'd.3gp': ('mpeg4', 'yuv420p', {'b': '4M'}, 'mov'),
  'e.MKV': ('ffv1', 'gbrp10le', {}, 'matroska'),
  'f.mkv': ('libx264', 'yuvj420p', {'crf': '4'}, None),
  'g.webm': ('libvpx', 'yuv420p', {'b': '4M', 'auto-alt-ref': '1', 'lag-in-frames': '8'}, None),
  'h.webm': ('libvpx-vp9', 'yuv420p', {'b': '4M', 'lag-in-frames': '8'}, None),
  'i.avi': ('mpeg4', 'yuv420p', {'b': '4M', 'bf': '2'}, None),
  'j.avi': ('libx264', 'yuv420p', {'crf': '4', 'bf': '2'}, None),
  'k.avi': ('mjpeg', 'yuvj420p', {'qmin': '1'}, None),
  'l.MTS': ('libx264', 'yuv420p', {'crf': '4'}, 'mpegts'),
  'm.m2ts': ('mpeg2video', 'yuv420p', {'b': '8M', 'bf': '2', 'flags': '+ildct+ilme'}, 'mpegts'),
  'n.ts': ('libx264', 'yuv420p', {'crf': '4', 'x264-params': 'interlaced=1'}, 'mpegts'),
  'o.mpg': ('mpeg2video', 'yuv420p', {'b': '8M', 'bf': '2'}, 'vob'),
  'p.wmv': ('wmv2', 'yuv420p', {'b': '4M'}, 'asf'),
  'q.flv': ('flv', 'yuv420p', {'b': '4M'}, None),
  'r.mov': ('qtrle', 'rgb24', {}, None),
  's.apng': ('apng', 'rgb24', {}, None),
  't.y4m': ('wrapped_avframe', 'yuv420p', {}, 'yuv4mpegpipe'),
  'u.mov': ('prores_ks', 'yuv422p10le', {}, None),
}
ANY_SIZE = ('c.mp4', 'e.MKV', 'r.mov', 's.apng')
TRACKS = ('a.mp4', 'b.mov', 'c.mp4', 'd.3gp', 'r.mov')
ANY_TIME = ('a.mp4', 'b.mov', 'c.mp4', 'e.MKV', 'f.mkv', 'g.webm', 'h.webm', 'r.mov')
JOINED = ('l.MTS', 'm.m2ts', 'n.ts')


@st.composite
def videos(draw):
  """Write videos; return which of their frames are shown at which times."""
  name = draw(st.sampled_from(sorted(KINDS)))
  size = draw(st.sampled_from([(32, 48), (48, 32), (64, 64)]))
  if name in ANY_SIZE:
    size = draw(st.tuples(st.integers(17, 40), st.integers(17, 40)))
  # FFmpeg does not open very short transport streams.
  count = draw(st.integers(4 if KINDS[name][3] in ('mpegts', 'vob') else 1, 12))
  gaps = [1] * (count - 1)
  # FFmpeg's mp4 hides a last frame that is shown for longer than the ones before it.
  if name in ANY_TIME and KINDS[name][2].get('bf', '0') == '0' and draw(st.booleans()):
    gaps = draw(st.lists(st.integers(1, 9), min_size=count - 1, max_size=count - 1))
  steps = np.cumsum([draw(st.integers(0, 30)) if name in ANY_TIME else 0, *gaps]).tolist()
  change: dict = {'aspect': Fraction(4, 3) if draw(st.booleans()) else None}
  if name in TRACKS:
    change['matrix'] = draw(st.sampled_from(sorted(MATRICES)))
  if name in ('a.mp4', 'c.mp4') and count > 2 and len({*gaps}) == 1 and steps[0] == 0:
    first = draw(st.integers(0, count - 2))
    change['shown'] = (first, draw(st.integers(first + 1, count)))
  if name in JOINED and count > 5:
    change['cut'] = draw(st.integers(3, count - 3))
  return name, size, [Fraction(step, RATE) for step in steps], change


@settings(max_examples=100, deadline=None)
@given(videos())
def test_any_video_reads_as_it_is_shown(tmp_path_factory, video):
  name, size, times, change = video
  codec, pixels, options, kind = KINDS[name]
  path = tmp_path_factory.mktemp('video') / name
  frames = video_fixtures.film(len(times), size)
  rate = 1200 if name in ANY_TIME else RATE
  settings = {'pixels': pixels, 'codec': codec, 'kind': kind, 'options': options, 'rate': rate}
  if aspect := change['aspect']:
    settings['aspect'] = aspect
  shown = range(len(times))
  if cut := change.get('cut'):
    parts = [path.with_name(f'{part}.{name}') for part in range(2)]
    video_fixtures.save_with(parts[0], frames[:cut], times[:cut], **settings)
    video_fixtures.save_with(parts[1], frames[cut:], times[: len(times) - cut], **settings)
    video_fixtures.join(path, *parts)
  else:
    video_fixtures.save_with(path, frames, times, **settings)
  if 'shown' in change:
    shown = range(*change['shown'])
    video_fixtures.trim(path, (Fraction(shown.start, RATE), Fraction(len(shown), RATE)))
  matrix = MATRICES[change.get('matrix', 'none')]
  if name in TRACKS:
    video_fixtures.turn(path, matrix)
  constant = {b - a for a, b in itertools.pairwise(times)} <= {Fraction(1, RATE)}
  seen = check(path, shown, None if constant else times, matrix)
  assert seen.hidden == len(times) - len(shown)


# Each kind on its own.


@pytest.mark.parametrize('name', MATRICES)
def test_turned_and_mirrored_videos_lie_under_their_masks(tmp_path, name):
  """Phones store how to display a video; videos of front cameras are mirrored."""
  count, matrix = 4, MATRICES[name]
  folder = tmp_path / 'selfie'
  folder.mkdir()
  path = video_fixtures.save_with(
    folder / 'video.mp4', video_fixtures.film(count), moments(count), rate=RATE
  )
  seen = check(video_fixtures.turn(path, matrix), range(count), matrix=matrix)
  shown = placed(decoded(path)[0], matrix)
  red = (shown[..., 0] > 150).astype(np.uint8)  # The object is the red part.
  trajectory.write_folder(folder / 'masks', np.repeat(red[None], count, 0))
  (video,) = vos_videos(tmp_path, None)
  (draft,) = drafts(video, Window(count, count, RATE, seen.size))
  for pixels, ids in zip(draft.video, draft.ids, strict=True):
    assert pixels[ids == 1][:, 0].min() > 150 and pixels[ids == 0][:, 0].max() < 150
  _, frames = video_reader.stream_video(path)
  np.testing.assert_array_equal(next(frames), shown)


def test_pixels_that_are_not_square_are_turned_too(tmp_path):
  path = video_fixtures.save_with(
    tmp_path / 'a.mp4', video_fixtures.film(3), moments(3), rate=RATE, aspect=Fraction(4, 3)
  )
  assert video_reader.probe(path).aspect == Fraction(4, 3)
  seen = video_reader.probe(video_fixtures.turn(path))
  assert (seen.size, seen.aspect) == ((48, 32), Fraction(3, 4))


def test_a_picture_with_exif_data_in_a_video(tmp_path):
  """PyAV cannot list unknown side data of a frame; the rotation must be kept."""
  path = tmp_path / 'a.mjpg'
  with path.open('wb') as file:
    for pixels in video_fixtures.film(3):
      picture = Image.fromarray(pixels)
      exif = picture.getexif()
      exif[0x0112] = 6
      picture.save(file, 'JPEG', exif=exif, quality=95)
  read, _ = video_reader.read_video(path)
  stored = decoded(path)
  np.testing.assert_array_equal(read, [np.rot90(frame, -1) for frame in stored])


@pytest.mark.parametrize(
  'pieces, shown, hidden',
  [
    ([(0, 12)], range(12), 0),
    ([(5, 7)], range(5, 12), 5),
    ([(0, 4)], range(4), 8),
    ([(6, 3)], range(6, 9), 9),
    ([(-1, 6), (0, 12)], range(12), 0),
    ([(-1, 6), (5, 4)], range(5, 9), 8),
    ([(8, 4), (0, 4)], [8, 9, 10, 11, 0, 1, 2, 3], 4),
  ],
)
@pytest.mark.parametrize('gop', ['4', '12'])
def test_an_edit_list_decides_which_frames_there_are(tmp_path, pieces, shown, hidden, gop):
  """Editors and phones trim a clip without encoding it again."""
  path = video_fixtures.save_with(
    tmp_path / 'a.mp4',
    video_fixtures.film(12),
    moments(12),
    rate=RATE,
    options={'crf': '4', 'bf': '2', 'g': gop},
  )
  video_fixtures.trim(
    path, *((Fraction(begin, RATE), Fraction(length, RATE)) for begin, length in pieces)
  )
  read, _ = video_reader.read_video(path)
  seen = video_reader.probe(path)
  assert video_fixtures.numbers(read) == list(shown)
  assert (seen.frames, seen.hidden) == (len(shown), hidden)
  np.testing.assert_array_equal(read, decoded(path))


def test_masks_of_a_trimmed_video(tmp_path):
  """One mask per shown frame; masks of all stored frames are refused with that reason."""
  for key, first in (('shown', 3), ('stored', 0)):
    ids = np.zeros((12 - first, 32, 48), np.uint8)
    for t in range(len(ids)):
      ids[t, 10:20, 12 + t + first :] = 1
    video_fixtures.object_video(tmp_path / key, ids)
    path = video_fixtures.save_with(
      tmp_path / key / 'video.mp4',
      video_fixtures.film(12),
      moments(12),
      rate=RATE,
      options={'crf': '4', 'bf': '2'},
    )
    video_fixtures.trim(path, (Fraction(3, RATE), Fraction(9, RATE)))
  shown, stored = vos_videos(tmp_path, None)
  (draft,) = drafts(shown, Window(9, 9, RATE, (32, 48)))
  assert video_fixtures.numbers(draft.video) == [*range(3, 12)]
  assert (draft.ids == 1).any(1).argmax(-1).tolist() == [*range(15, 24)]
  with pytest.raises(InputError, match='stores 12 frames, of which an edit list hides 3'):
    next(drafts(stored, Window(9, 9, RATE, (32, 48))))


@pytest.mark.parametrize('kind, ending', [('mpegts', '.ts'), ('vob', '.mpg')])
def test_joined_pieces_keep_their_frames_and_their_rate(tmp_path, kind, ending):
  codec, options = ('libx264', {'crf': '4'}) if kind != 'vob' else ('mpeg2video', {'b': '8M'})
  frames, parts = video_fixtures.film(20), []
  for number, part in enumerate((frames[:5], frames[5:13], frames[13:])):
    parts.append(
      video_fixtures.save_with(
        tmp_path / f'{number}{ending}',
        part,
        moments(len(part)),
        codec=codec,
        kind=kind,
        rate=RATE,
        options=options,
      )
    )
  check(video_fixtures.join(tmp_path / f'a{ending}', *parts), range(20))


@pytest.mark.parametrize(
  'stamps, line',
  [
    ([0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]),  # They start over.
    ([7, 8, 9, 2, 3, 4, 5], [7, 8, 9, 10, 11, 12, 13]),
    ([0, 1, 2, 500, 501, 502], [0, 1, 2, 3, 4, 5]),  # A jump.
    ([0, 1, 2, 12, 13], [0, 1, 2, 12, 13]),  # A held frame.
    ([1, 2, 4, 3, 5], [1, 2, 3, 4, 5]),  # Stored in another order.
    ([1, 3, 4, 2], [1, 2, 3, 4]),
    ([0, 2, 2, 6, 8, 10], [0, 2, 4, 6, 8, 10]),  # One repeated, one far off.
    ([0, 1, 9000, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    ([None, 2, None, 4, 5, None], [1, 2, 3, 4, 5, 6]),  # Missing time stamps.
    ([None, None, 3], []),
    ([], []),
  ],
)
def test_time_stamps_are_put_in_one_line(stamps, line):
  found = video_reader._in_line(stamps, 100)
  assert [stamp - found[0] for stamp in found] == [stamp - line[0] for stamp in line]


@pytest.mark.parametrize(
  'name, kind', [('a.mp4', None), ('b.mkv', None), ('c.avi', None), ('d.wmv', 'asf')]
)
def test_a_cover_is_no_video(tmp_path, name, kind):
  path = video_fixtures.save_covered(tmp_path / name, video_fixtures.film(6), kind)
  with av.open(str(path)) as container:
    assert [stream.codec_context.name for stream in container.streams] == ['mjpeg', 'mpeg4']
  check(path, range(6), stream=1)


def test_the_track_that_players_show(tmp_path):
  path = tmp_path / 'a.mkv'
  with av.open(str(path), 'w') as container:
    streams = []
    for default, size in ((False, (16, 16)), (True, (32, 48))):
      stream = container.add_stream('mpeg4', RATE, {'b': '4M'})
      stream.height, stream.width = size
      stream.pix_fmt = 'yuv420p'
      stream.disposition = Disposition.default if default else Disposition(0)
      streams.append((stream, video_fixtures.film(4, size)))
    for stream, frames in streams:
      for pixels in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
      container.mux(stream.encode(None))
  check(path, range(4), stream=1)


def test_screen_recorders_leave_out_frames_that_stay_the_same(tmp_path):
  """The header of an AVI counts them, so this is not corruption."""
  times = [Fraction(t, RATE) for t in (0, 1, 2, 3, 8, 9, 10)]
  path = video_fixtures.save_with(
    tmp_path / 'a.avi', video_fixtures.film(7), times, codec='mpeg4', rate=RATE, options={'b': '4M'}
  )
  with av.open(str(path)) as container:
    assert container.streams.video[0].frames == 11
  assert check(path, range(7), times).varies
  video_fixtures.truncate(path, 0.8)
  with pytest.raises(InputError, match=r'a\.avi: (damaged|the video is damaged|not a readable)'):
    video_reader.read_video(path)


def test_animations(tmp_path):
  path = tmp_path / 'a.gif'
  first, *others = (Image.fromarray(pixels) for pixels in video_fixtures.film(6))
  first.save(path, save_all=True, append_images=others, duration=[100, 50] * 3)
  seen = check(path, range(6), [Fraction(t, 20) for t in (0, 2, 3, 5, 6, 8)])
  assert seen.varies and seen.fps == Fraction(100, 8)
  first.save(path, save_all=True, append_images=others, duration=80)
  assert video_reader.probe(path).fps == 12.5


def test_names_that_look_like_protocols_and_patterns(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  os.mkdir('proj [v1] *?{a}~ ü')
  for name in ('clip 12:30.mp4', 'concat:a|b.mp4', 'proj [v1] *?{a}~ ü/%03d #1.mp4'):
    video_fixtures.save(tmp_path / name, video_fixtures.film(3))
    assert len(video_reader.read_video(name)[0]) == 3
    video_fixtures.save(name, video_fixtures.film(4))
    assert len(video_reader.read_video(name)[0]) == 4


def test_tags_in_another_encoding(tmp_path):
  path = tmp_path / 'a.avi'
  with av.open(str(path), 'w') as container:
    container.metadata['title'] = 'ABCD'
    stream = container.add_stream('mpeg4', RATE, {'b': '4M'})
    stream.height, stream.width, stream.pix_fmt = 32, 48, 'yuv420p'
    for pixels in video_fixtures.film(3):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
    container.mux(stream.encode(None))
  path.write_bytes(path.read_bytes().replace(b'ABCD', b'\xcf\xf0\xe8\xff'))
  check(path, range(3))


@pytest.mark.parametrize(
  'name, content',
  [
    ('a.m3u8', '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfilm.ts\n#EXT-X-ENDLIST\n'),
    ('a.mp4', 'ffconcat version 1.0\nfile film.ts\n'),
  ],
)
def test_a_playlist_opens_no_other_file(tmp_path, name, content):
  video_fixtures.save_with(tmp_path / 'film.ts', video_fixtures.film(12), moments(12), rate=RATE)
  (tmp_path / name).write_text(content)
  assert len(decoded(tmp_path / name)) == 12
  with pytest.raises(InputError, match=f'{name}: not a readable video; convert it to mp4'):
    video_reader.read_video(tmp_path / name)


def test_a_record_opens_no_other_file(tmp_path):
  path = video_fixtures.save_with(
    tmp_path / 'film.ts', video_fixtures.film(12), moments(12), rate=RATE
  )
  with pytest.raises(InputError, match='are not an encoded video'):
    video_io.decode_video(f'ffconcat version 1.0\nfile {path}\n'.encode())


def test_sizes_that_change_are_refused(tmp_path):
  parts = [
    video_fixtures.save_with(
      tmp_path / f'{side}.ts', video_fixtures.film(6, (side, side)), moments(6), rate=RATE
    )
    for side in (32, 64)
  ]
  path = video_fixtures.join(tmp_path / 'a.ts', *parts)
  with pytest.raises(InputError, match='frame 6 is 64x64, the first 32x32; convert it to one size'):
    video_reader.read_video(path)


def test_how_long_a_video_is_shows_without_decoding(tmp_path):
  video = Video('a', str(video_fixtures.save(tmp_path / 'a.mp4', video_fixtures.film(12))))
  assert video_reader.seconds(video.path) == pytest.approx(1)
  assert expected(video, Window(4, 4, RATE, (8, 8))) == 3
  assert video_reader.seconds(tmp_path / 'none.mp4') == 0


def test_what_is_named_like_a_video(tmp_path):
  for name in ['a.MTS', 'b.wmv', 'c.3gp', 'd.gif', 'e.flv', 'f.OGV', 'g.m2ts', 'h.Mov']:
    assert video_reader.is_video(tmp_path / name)
  for name in ('._a.mp4', '.hidden.mov', 'a.png', 'a.txt', 'mp4'):
    assert not video_reader.is_video(tmp_path / name)
  assert len({*video_reader.EXTENSIONS}) == len(video_reader.EXTENSIONS)


@pytest.mark.parametrize(
  'names, found',
  [
    (['video.mp4', 'other.mp4'], 'video.mp4'),
    (['clip.mp4', 'preview.gif'], 'clip.mp4'),
    (['clip.MTS'], 'clip.MTS'),
    (['VIDEO.MOV', 'clip.gif'], 'VIDEO.MOV'),
    (['clip.mp4', '._clip.mp4'], 'clip.mp4'),
    (['preview.gif', 'JPEGImages/'], 'JPEGImages'),
    (['a.mov', 'b.mov'], None),
    ([], None),
  ],
)
def test_the_video_of_a_folder(tmp_path, names, found):
  for name in names:
    (tmp_path / name).mkdir() if name[-1] == '/' else (tmp_path / name).write_text('')
  if found:
    assert video_of(tmp_path) == tmp_path / found
  else:
    with pytest.raises(InputError, match=r'contains \d video files; name the one to'):
      video_of(tmp_path)
