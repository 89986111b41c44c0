"""Video files as made by cameras, phones and accidents."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from ttm_jax import trajectory
from ttm_jax.media import video_io


def levels(count: int, size: tuple[int, int] = (32, 48), step: int = 10) -> np.ndarray:
  """Return frames uint8 [count, H, W, 3]; frame t is gray of level `step` t."""
  grey = (np.arange(count) * step).astype(np.uint8)
  return np.broadcast_to(grey[:, None, None, None], (count, *size, 3)).copy()


def save(path: Path, frames: np.ndarray, fps: float = 12) -> Path:
  """Write an ordinary mp4."""
  video_io.write_video(path, frames, fps)
  return path


def film(count: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
  """Return frames uint8 [count, H, W, 3] that show their number and orientation.

  Frame t is gray of level 20 + 8 t; the upper quarter is red, the left quarter blue.
  """
  frames = np.empty((count, *size, 3), np.uint8)
  frames[:] = 20 + 8 * np.arange(count)[:, None, None, None]
  frames[:, : size[0] // 4] = 200, 0, 0
  frames[:, :, : size[1] // 4] = 0, 0, 200
  return frames


def numbers(frames: np.ndarray) -> list[int]:
  """Return which frame of `film` each frame is, by its middle."""
  middle = frames[:, frames.shape[1] // 2, frames.shape[2] // 2].astype(float).mean(-1)
  return ((middle - 20) / 8).round().astype(int).tolist()


def save_with(
  path: Path,
  frames: np.ndarray,
  times: Sequence[Fraction],
  pixels: str = 'yuv420p',
  codec: str = 'libx264',
  transfer: int | None = None,
  *,
  rate: int = 1000,
  kind: str | None = None,
  options: dict[str, str] | None = None,
  aspect: Fraction | None = None,
) -> Path:
  """Write frames at the given times in seconds, with another pixel format, codec or container.

  Args:
    rate: ticks per second of the time stamps.
    kind: FFmpeg's name of the container, if the extension does not give it.
    aspect: width of a pixel divided by its height.
  """
  if options is None:
    options = {'crf': '2'} if codec == 'libx264' else {}
  with av.open(str(path), 'w', kind) as container:
    stream = container.add_stream(codec, rate, options)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pixels
    stream.codec_context.time_base = Fraction(1, rate)
    if aspect is not None:
      stream.codec_context.sample_aspect_ratio = aspect
    if transfer is not None:
      stream.codec_context.color_trc = transfer
    for array, time in zip(frames, times, strict=True):
      frame = av.VideoFrame.from_ndarray(array, format='rgb24').reformat(format=pixels)
      frame.pts, frame.time_base = round(time * rate), Fraction(1, rate)
      if transfer is not None:
        frame.color_trc = transfer
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def turn(path: Path, matrix: Sequence[int] = (0, 1, -1, 0)) -> Path:
  """Set an mp4's display matrix, as phones do: (x, y) is shown at (a x + c y, b x + d y).

  Args:
    matrix: a, b, c, d; by default a clockwise quarter turn.
  """
  content = bytearray(path.read_bytes())
  # The track header: size, 'tkhd', version 0 and flags, 36 bytes, then a matrix of nine numbers.
  start = content.index(b'tkhd') + 4 + 4 + 36
  a, b, c, d = (round(number * (1 << 16)) for number in matrix)
  content[start : start + 36] = struct.pack('>9i', a, b, 0, c, d, 0, 0, 0, 1 << 30)
  path.write_bytes(content)
  return path


def trim(path: Path, *pieces: tuple[Fraction, Fraction]) -> Path:
  """Trim an mp4 with an edit list, without changing its stored frames.

  Args:
    path: a file of `save_with`, whose index comes after the frames.
    pieces: start and length in seconds of the shown parts; a start below 0 shows nothing.
  """
  content = path.read_bytes()
  ticks = {name: _number(content, content.index(name) + 16) for name in (b'mvhd', b'mdhd')}
  start = content.index(b'elst') - 4
  size = _number(content, start)
  shift = _number(content, start + 20)  # For frames stored in another order.
  rows = [
    struct.pack(
      '>IiI',
      int(length * ticks[b'mvhd']),
      round(begin * ticks[b'mdhd']) + shift if begin >= 0 else -1,
      1 << 16,
    )
    for begin, length in pieces
  ]
  edits = struct.pack('>I4sII', 16 + 12 * len(rows), b'elst', 0, len(rows)) + b''.join(rows)
  changed = bytearray(content[:start] + edits + content[start + size :])
  for name in (b'moov', b'trak', b'edts'):  # The boxes around it.
    place = content.index(name) - 4
    struct.pack_into('>I', changed, place, _number(content, place) + len(edits) - size)
  path.write_bytes(changed)
  return path


def _number(content: bytes, place: int) -> int:
  return struct.unpack_from('>I', content, place)[0]


def join(path: Path, *parts: Path) -> Path:
  """Concatenate two files, as `cat` does."""
  path.write_bytes(b''.join(part.read_bytes() for part in parts))
  return path


def save_covered(path: Path, frames: np.ndarray, kind: str | None = None) -> Path:
  """Write a video whose first stream is a green cover image, marked as a cover in mp4 only."""
  with av.open(str(path), 'w', kind) as container:
    cover = container.add_stream('mjpeg', 12)
    cover.height, cover.width, cover.pix_fmt = 64, 64, 'yuvj420p'
    cover.disposition = Disposition.attached_pic
    stream = container.add_stream('mpeg4', 12, {'b': '4M'})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    green = np.full((64, 64, 3), (0, 255, 0), np.uint8)
    container.mux(cover.encode(av.VideoFrame.from_ndarray(green, format='rgb24')))
    for array in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format='rgb24')))
    container.mux([*cover.encode(None), *stream.encode(None)])
  if path.suffix == '.mp4':
    # FFmpeg numbers streams in order; other programs write the cover before the tracks.
    content = path.read_bytes()
    start = content.index(b'moov') - 4
    boxes = sorted(_boxes(content[start + 8 :]), key=lambda box: _ORDER.get(box[4:8], 2))
    path.write_bytes(content[: start + 8] + b''.join(boxes))
  return path


_ORDER = {b'mvhd': 0, b'udta': 1}


def _boxes(content: bytes) -> list[bytes]:
  found = []
  while content:
    size = _number(content, 0)
    found.append(content[:size])
    content = content[size:]
  return found


def save_sound(path: Path) -> Path:
  """Write a file with sound only."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', 8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def save_empty(path: Path, kind: str) -> Path:
  """Write a video without frames."""
  with av.open(str(path), 'w', kind) as container:
    stream = container.add_stream('mpeg4', 12)
    stream.height, stream.width, stream.pix_fmt = 32, 48, 'yuv420p'
    container.start_encoding()
  return path


def truncate(path: Path, share: float = 0.6) -> Path:
  """Truncate a file."""
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * share)])
  return path


def object_video(folder: Path, ids: np.ndarray, fps: float = 12) -> Path:
  """Write KEY/video.mp4 and KEY/masks: the objects are white on gray of level 10 t."""
  frames = np.where((ids > 0)[..., None], np.uint8(250), levels(len(ids), ids.shape[1:]))
  save(folder / 'video.mp4', frames, fps)
  trajectory.write_folder(folder / 'masks', ids)
  return folder
