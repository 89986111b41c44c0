"""Frames of any video PyAV reads, or of a folder of pictures, with their times.

Containers say when a frame is shown; nothing here assumes a constant rate. Frames come out upright
(phones film sideways and note the rotation) and in eight bits. What would come out wrong is
refused: high dynamic range needs tone mapping, a damaged file has frames the decoder made up.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.images import list_pictures, read_image

# Transfer functions of high dynamic range in ITU-T H.273: SMPTE ST 2084 and ARIB STD-B67.
_HIGH_DYNAMIC_RANGE = {16: 'PQ', 18: 'HLG'}
# A constant rate, up to the rounding of time stamps to milliseconds.
_JITTER = Fraction(1, 500)
_UNTRUE = Fraction(1, 50)


@dataclasses.dataclass(frozen=True)
class Probe:
  """What is known of a video before any frame is decoded.

  Attributes:
    frames: how many there are.
    fps: their mean rate.
    varies: whether their distances in time differ.
    size: (H, W) upright, in pixels as stored.
    aspect: width of a pixel over its height.
  """

  frames: int
  fps: Fraction
  varies: bool
  size: tuple[int, int]
  aspect: Fraction = Fraction(1)


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame, converted only if it is wanted.

  Attributes:
    number: from 0.
    time: seconds since the first frame.
    pixels: gives uint8 [H, W, 3].
  """

  number: int
  time: Fraction
  pixels: Callable[[], np.ndarray]


def probe(path: str | os.PathLike, fps: float | None = None) -> Probe:
  """Looks at a video file, or at a folder of pictures shown at `fps`.

  Reads the packets of a file without decoding them, so a truncated one is noticed at once.

  Raises:
    InputError: it is missing, no video, damaged, of high dynamic range, or has no frames or rate.
  """
  path = Path(path)
  if path.is_dir():
    files = _pictures(path)
    if not fps:
      raise InputError(f'{path}: pictures have no frame rate; give --source_fps')
    height, width = read_image(files[0]).shape[:2]
    return Probe(len(files), _rate(fps), False, (height, width))
  if not path.is_file():
    raise InputError(f'{path}: there is no such video file; check the path')
  try:
    with av.open(os.fspath(path), 'r') as container:
      if not container.streams.video:
        sound = container.streams.audio
        why = 'holds sound and no picture; leave it out' if sound else 'holds no frames; replace it'
        raise InputError(f'{path}: {why}')
      stream = container.streams.video[0]
      base, declared = stream.time_base, stream.frames
      transfer = stream.codec_context.color_trc
      aspect = stream.sample_aspect_ratio or Fraction(1)
      average = stream.average_rate
      first = next(container.decode(stream), None)
      if first is None:
        raise InputError(f'{path}: holds no frames; replace it')
      height, width = first.height, first.width
      if first.rotation % 180:
        height, width, aspect = width, height, 1 / aspect
      container.seek(0)
      stamps = [packet.pts for packet in container.demux(stream) if packet.size]
  except (av.FFmpegError, LookupError, UnicodeError) as error:
    raise InputError(f'{path}: not a readable video; convert it to mp4') from error
  if transfer in _HIGH_DYNAMIC_RANGE:
    raise InputError(
      f'{path}: high dynamic range ({_HIGH_DYNAMIC_RANGE[transfer]}); map it to the standard range'
    )
  if declared > len(stamps):
    raise InputError(f'{path}: damaged, {len(stamps)} of {declared} frames are there; replace it')
  known = sorted(stamp for stamp in stamps if stamp is not None)
  gaps = [(b - a) * base for a, b in itertools.pairwise(known)] if base else []
  varies = bool(gaps) and max(gaps) - min(gaps) > 2 * _JITTER
  if gaps and sum(gaps) > 0:
    measured = Fraction(len(gaps) / sum(gaps))
    # The stated rate is the exact one, if it is true at all.
    if not average or abs(measured / average - 1) > _UNTRUE:
      average = measured
  if not average:
    raise InputError(f'{path}: the video states no frame rate; convert it to mp4')
  return Probe(len(stamps), Fraction(average), varies, (height, width), Fraction(aspect))


def frames(path: str | os.PathLike, seen: Probe) -> Iterator[Frame]:
  """The frames of what was probed, in the order they are shown, one in memory at a time.

  Raises:
    InputError: damage that only decoding shows, when the frame it concerns is asked for.
  """
  path = Path(path)
  if path.is_dir():
    for number, file in enumerate(_pictures(path)):
      yield Frame(number, number / seen.fps, functools.partial(read_image, file))
    return
  number = 0
  try:
    with av.open(os.fspath(path), 'r') as container:
      stream = container.streams.video[0]
      stream.thread_type = 'NONE'
      start: Fraction | None = None
      for frame in container.decode(stream):
        if frame.is_corrupt:
          raise InputError(f'{path}: the video is damaged after frame {number}; replace it')
        time = number / seen.fps
        if seen.varies and frame.pts is not None and frame.time_base is not None:
          now = Fraction(frame.pts * frame.time_base)
          start = now if start is None else start
          time = now - start
        yield Frame(number, time, functools.partial(_upright, frame))
        number += 1
  except av.FFmpegError as error:
    raise InputError(f'{path}: the video is damaged after frame {number}; replace it') from error


def _upright(frame: av.VideoFrame) -> np.ndarray:
  pixels = frame.to_ndarray(format='rgb24')
  # FFmpeg counts degrees counterclockwise, as rot90 does.
  return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def _pictures(folder: Path) -> list[Path]:
  files = list_pictures(folder)
  if not files:
    raise InputError(f'{folder}: holds no pictures; give a folder of JPEG or PNG files')
  return files


def _rate(fps: float) -> Fraction:
  """The rate meant by a decimal: 29.97 is 30000/1001."""
  return Fraction(fps).limit_denominator(1001)
