"""Read video files: the frames that a player shows, upright, with their times.

This is the only decoder of video files in the project. Its frames are what decoding shows, not
what a file stores: an edit list hides frames of a clip that was trimmed without re-encoding, and
some codecs store pictures that are never shown. Rotation and mirroring (the display matrix of
phones) are applied, embedded cover art is skipped, and time stamps that restart (joined transport
streams) are put in one line. High dynamic range and damaged files are refused.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.stream import Disposition

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]

# File name extensions by FFmpeg's name of the container format. The content decides how a file is
# read; the extension only decides which files of a folder are taken for videos. An extension that
# comes earlier is preferred where a folder holds one video in several formats.
_FORMATS = {
  'mov': '.mp4 .mov .m4v .qt .3gp .3g2 .f4v .mj2 .lrv .insv',
  'matroska': '.mkv .webm .mk3d',
  'mpegts': '.mts .m2ts .m2t .ts .tod .trp',
  'mpeg': '.mpg .mpeg .mpe .vob .mod .m2p',
  'avi': '.avi .divx',
  'asf': '.wmv .asf',
  'flv': '.flv',
  'ogg': '.ogv .ogm',
  'mxf': '.mxf',
  'gxf': '.gxf',
  'dv': '.dv .dif',
  'rm': '.rm .rmvb',
  'wtv': '.wtv',
  'dhav': '.dav',
  'nut': '.nut',
  'nuv': '.nuv',
  'ivf': '.ivf',
  'obu': '.obu',
  'hevc': '.hevc .h265 .265',
  'h264': '.h264 .264',
  'vvc': '.h266 .266',
  'mpegvideo': '.m1v .m2v',
  'mjpeg': '.mjpeg .mjpg',
  'yuv4mpegpipe': '.y4m',
  'apng': '.apng',
  'gif': '.gif',
}
EXTENSIONS = tuple(' '.join(_FORMATS.values()).split())

# What FFmpeg may open: no playlists (HLS, DASH, concat), which name further files or hosts.
_OTHERS = 'm4v h263 h261 vc1 dirac live_flv av1 evc swf bink smk flic'
_PICTURES = 'bmp_pipe jpeg_pipe png_pipe tiff_pipe webp_pipe ppm_pipe pgm_pipe'
_OPTIONS = {
  'format_whitelist': ','.join((*_FORMATS, *_OTHERS.split(), *_PICTURES.split())),
  'protocol_whitelist': 'file',
}

# Transfer functions of high dynamic range in ITU-T H.273: SMPTE ST 2084 and ARIB STD-B67.
_HIGH_DYNAMIC_RANGE = {16: 'PQ', 18: 'HLG'}
_STILL = Disposition.attached_pic | Disposition.timed_thumbnails
_PICTURE_CODECS = ('mjpeg', 'png', 'bmp', 'tiff', 'webp', 'gif')
# Formats whose time stamps may jump (AVFMT_TS_DISCONT), and the jump that FFmpeg takes for one.
_DISCONTINUOUS = 0x0200
_JUMP = 10  # Seconds.
# Frames that a codec may store before one that is shown earlier.
_REORDERED = 16
# Time stamps this near to those of a constant rate, in seconds, are of that rate: containers round.
_JITTER = Fraction(1, 500)


@dataclasses.dataclass(frozen=True)
class Probe:
  """What is known of a video before its frames are handed out.

  Attributes:
    frames: number of frames shown.
    fps: mean rate, frames per second.
    varies: whether frames are shown at unequal distances in time.
    size: (H, W) upright, in pixels as stored.
    aspect: width of a pixel over its height.
    times: of each frame, seconds since the first; only where the rate varies.
    hidden: number of frames that the file stores, but hides by an edit list.
  """

  frames: int
  fps: Fraction
  varies: bool
  size: tuple[int, int]
  aspect: Fraction = Fraction(1)
  times: tuple[Fraction, ...] = ()
  hidden: int = 0


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame, converted only if it is wanted.

  Attributes:
    number: from 0.
    time: seconds since the first frame.
    pixels: returns uint8 [H, W, 3].
  """

  number: int
  time: Fraction
  pixels: Callable[[], np.ndarray]


def is_video(path: Path) -> bool:
  """Return whether a path is named like a video; hidden files (`._a.mp4` of macOS) are not."""
  return path.suffix.lower() in EXTENSIONS and not path.name.startswith('.')


def probe(path: PathLike) -> Probe:
  """Decode a video file once, without keeping a frame, and return what is known of it.

  Of a file that is damaged in the middle, `frames` is the number of frames it should have.

  Raises:
    InputError: the file is missing, no video, truncated, of high dynamic range, or has no frames or
      no frame rate.
  """
  try:
    state = os.stat(path)
  except (OSError, ValueError):
    state = None
  if state is None or not os.path.isfile(path):
    raise InputError(f'{path}: there is no such video file; check the path')
  return _probe(os.fspath(path), (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size))


def seconds(path: PathLike) -> float:
  """Return about how long a video lasts, by what its file states; 0 if that is unknown."""
  try:
    with _opened(path) as (container, _):
      return (container.duration or 0) / av.time_base
  except (av.FFmpegError, LookupError, InputError):
    return 0


def frames(path: PathLike, seen: Probe) -> Iterator[Frame]:
  """Yield the frames of a probed video file in the order they are shown, one in memory at a time.

  Raises:
    InputError: the video is damaged; when the first bad frame is asked for.
  """
  number = 0
  try:
    with _opened(path) as (container, stream):
      for frame in container.decode(stream):
        if frame.is_corrupt or (seen.varies and number >= len(seen.times)):
          raise InputError(f'{path}: the video is damaged after frame {number}; replace it')
        time = seen.times[number] if seen.varies else number / seen.fps
        yield Frame(number, time, functools.partial(upright, frame))
        number += 1
  except av.FFmpegError as error:
    raise InputError(f'{path}: the video is damaged after frame {number}; replace it') from error


def stream_video(path: PathLike) -> tuple[float, Iterator[np.ndarray]]:
  """Return the rate of a video file, frames per second, and its frames, uint8 [H, W, 3].

  Raises:
    InputError: see `probe` and `frames`; or, at the frame it concerns, the size changes.
  """
  seen = probe(path)

  def pixels() -> Iterator[np.ndarray]:
    for frame in frames(path, seen):
      array = frame.pixels()
      if array.shape[:2] != seen.size:
        raise InputError(
          f'{path}: frame {frame.number} is {array.shape[1]}x{array.shape[0]}, the first'
          f' {seen.size[1]}x{seen.size[0]}; convert it to one size'
        )
      yield array

  return float(seen.fps), pixels()


def read_video(path: PathLike) -> tuple[np.ndarray, float]:
  """Return all frames of a video file, uint8 [T, H, W, 3], and its rate, frames per second.

  Raises:
    InputError: see `stream_video`.
  """
  fps, pixels = stream_video(path)
  return np.stack(list(pixels)), fps


def upright(frame: av.VideoFrame) -> np.ndarray:
  """Return a decoded frame as uint8 [H, W, 3], turned and mirrored as its display matrix says."""
  pixels = frame.to_ndarray(format='rgb24')
  swapped, flip_x, flip_y = _orientation(frame)
  if swapped:
    pixels = pixels.swapaxes(0, 1)
  return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
  """Return whether to swap x with y, and then whether to mirror x and y.

  The display matrix (nine int32, row by row; ISO 14496-12, 6.2.2) takes the pixel (x, y) to
  (a x + c y, b x + d y), up to a shift. Angles between are rounded to quarter turns.
  """
  try:
    matrix = frame.side_data.get('DISPLAYMATRIX')
  except ValueError:
    # PyAV cannot list side data of a kind that it does not know (Exif). It does know the angle,
    # counterclockwise.
    quarters = round(frame.rotation / 90) % 4
    return bool(quarters % 2), quarters in (2, 3), quarters in (1, 2)
  if not isinstance(matrix, SideData):
    return False, False, False
  a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
  if abs(b) + abs(c) > abs(a) + abs(d):
    return True, c < 0, b < 0
  return False, a < 0, d < 0


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[tuple[InputContainer, av.VideoStream]]:
  """Open a video file at its moving picture.

  Raises:
    InputError: it has no moving picture, or the codec is unknown.
    av.FFmpegError: it cannot be opened.
  """
  # Without "file:", a name with a colon is taken for a protocol. Tags need not be UTF-8.
  name = f'file:{os.fspath(path)}'
  with av.open(name, 'r', options=dict(_OPTIONS), metadata_errors='replace') as container:
    streams = [s for s in container.streams.video if not s.disposition & _STILL]
    if not streams:
      sound = container.streams.audio
      why = 'holds sound and no picture; leave it out' if sound else 'holds no frames; replace it'
      raise InputError(f'{path}: {why}')
    known = [s for s in streams if s.codec_context is not None]
    if not known:
      raise InputError(f'{path}: the video codec is unknown; convert it to mp4')
    # Of several, a stream of pictures is most likely a cover that is not marked as one.
    stream = min(
      known,
      key=lambda s: (
        s.codec_context.name in _PICTURE_CODECS,
        not s.disposition & Disposition.default,
      ),
    )
    stream.thread_type = 'NONE'
    yield container, stream


@dataclasses.dataclass
class _Scan:
  """What one pass through a video file finds.

  Attributes:
    stored: packets that hold a frame, shown or not.
    discarded: of these, the ones that an edit list hides.
    stamps: of each frame shown, in `time_base`; None where it is unknown.
    first: the first frame.
    damaged: whether decoding ended early.
  """

  stored: int = 0
  discarded: int = 0
  stamps: list[int | None] = dataclasses.field(default_factory=list)
  first: av.VideoFrame | None = None
  damaged: bool = False


def _scan(container: InputContainer, stream: av.VideoStream) -> _Scan:
  found = _Scan()
  try:
    for packet in container.demux(stream):
      if packet.size:
        found.stored += 1
        found.discarded += packet.is_discard
      if not found.damaged:
        _decode(packet, found)
  except av.FFmpegError:
    if found.first is None:
      raise
    found.damaged = True
  return found


def _decode(packet: av.Packet, found: _Scan) -> None:
  try:
    for frame in packet.decode():
      assert isinstance(frame, av.VideoFrame)
      if frame.is_corrupt:
        found.damaged = True
        return
      found.first = found.first or frame
      found.stamps.append(frame.pts)
  except av.FFmpegError:
    if found.first is None:
      raise
    found.damaged = True


@functools.lru_cache(maxsize=4)
def _probe(path: str, _state: tuple[int, ...]) -> Probe:
  try:
    with _opened(path) as (container, stream):
      _refuse_high_range(path, stream.codec_context.color_trc)
      found = _scan(container, stream)
      base = stream.time_base or Fraction(0)
      stated = [rate for rate in (stream.average_rate, stream.guessed_rate) if rate]
      jumps = bool(container.format.flags & _DISCONTINUOUS)
      aspect = Fraction(stream.sample_aspect_ratio or 1)
      declared, listed = stream.frames, len(stream.index_entries)
      lists_all = 'mp4' in container.format.name
  except (av.FFmpegError, LookupError) as error:
    raise InputError(f'{path}: not a readable video; convert it to mp4') from error
  if found.first is None:
    why = 'damaged from its first frame on' if found.damaged else 'holds no frames'
    raise InputError(f'{path}: {why}; replace it')
  _refuse_high_range(path, found.first.color_trc)
  stamps = _in_line(found.stamps, _JUMP / base if jumps and base else None)
  fps, varies = _rate(stamps, base, stated)
  # Of frames that an edit list hides, mp4 may not even list the packets.
  due = min(declared, listed) if lists_all else declared
  if stamps and stated and not lists_all:
    # Screen recorders write a frame that stays the same as an empty packet of AVI.
    due = min(due, due - round((stamps[-1] - stamps[0]) * base * stated[0] + 1) + found.stored)
  if due > found.stored:
    raise InputError(f'{path}: damaged, {found.stored} of {due} frames are there; replace it')
  if not fps:
    raise InputError(f'{path}: the video states no frame rate; convert it to mp4')
  shown = len(found.stamps)
  if found.damaged:
    shown = max(shown + 1, found.stored - found.discarded)
  height, width = found.first.height, found.first.width
  if _orientation(found.first)[0]:
    height, width, aspect = width, height, 1 / aspect
  return Probe(
    frames=shown,
    fps=fps,
    varies=varies,
    size=(height, width),
    aspect=aspect,
    times=tuple((stamp - stamps[0]) * base for stamp in stamps) if varies else (),
    hidden=max(0, declared - shown) if lists_all else 0,
  )


def _refuse_high_range(path: str, transfer: int) -> None:
  if transfer in _HIGH_DYNAMIC_RANGE:
    name = _HIGH_DYNAMIC_RANGE[transfer]
    raise InputError(f'{path}: high dynamic range ({name}); map it to the standard range')


def _in_line(stamps: Sequence[int | None], jump: Fraction | None) -> list[int]:
  """Return the time stamps of frames in one ascending line.

  - Where they start over, or jump ahead by more than `jump`, a new piece begins. It follows at the
    usual distance.
  - Containers without presentation times (AVI) give frames that were stored in another order each
    other's stamps. These are sorted.
  - Single stamps that are missing, repeated or far off are interpolated.

  Returns:
    one a frame, in the unit of `stamps`; empty if fewer than two are known.
  """
  known = [(number, stamp) for number, stamp in enumerate(stamps) if stamp is not None]
  gaps = [(b - a) / (j - i) for (i, a), (j, b) in itertools.pairwise(known)]
  if not any(gap > 0 for gap in gaps):
    return []
  # Gaps beside a step back say nothing of the usual distance.
  usual = [gap for index, gap in enumerate(gaps) if min(gaps[max(0, index - 1) : index + 2]) > 0]
  step = statistics.median_low(usual) if usual else min(abs(gap) for gap in gaps if gap)
  ascending = sorted({stamp for _, stamp in known})
  apart = statistics.median_low([b - a for a, b in itertools.pairwise(ascending)])
  pieces = [[known[0]]]
  high = known[0][1]
  for index, (number, stamp) in enumerate(known[1:], 1):
    following = known[index + 1][1] if index + 1 < len(known) else None
    near = [s for _, s in pieces[-1][-_REORDERED:]]
    if stamp > high:
      begins = jump is not None and stamp - high > jump
      wrong = following is not None and high < following < stamp - _REORDERED * step
    else:
      # Out of order, if it fills a gap between stamps just before.
      fits = min(near) < stamp and min(abs(s - stamp) for s in near) > 0.6 * apart
      wrong = not fits and (following is None or following > high)
      begins = not fits
    if wrong:
      continue
    if begins:
      pieces.append([])
      high = stamp
    pieces[-1].append((number, stamp))
    high = max(high, stamp)
  numbers: list[int] = []
  line: list[int] = []
  for piece in pieces:
    ascending = sorted(stamp for _, stamp in piece)
    shift = 0
    if line:
      shift = line[-1] + round(step * (piece[0][0] - numbers[-1])) - ascending[0]
    numbers += [number for number, _ in piece]
    line += [stamp + shift for stamp in ascending]
  before = [line[0] - round(step * (numbers[0] - n)) for n in range(numbers[0])]
  between = np.interp(np.arange(numbers[0], numbers[-1] + 1), numbers, line)
  behind = [line[-1] + round(step * n) for n in range(1, len(stamps) - numbers[-1])]
  return [*before, *(round(stamp) for stamp in between.tolist()), *behind]


def _rate(
  stamps: Sequence[int], base: Fraction, stated: Sequence[Fraction]
) -> tuple[Fraction, bool]:
  """Return the frames per second (0 if unknown), and whether the distances of frames vary.

  A stated rate is the exact one, if the time stamps agree with it.
  """
  if len(stamps) < 2:
    return (stated[0] if stated else Fraction(0)), False
  numbers = np.arange(len(stamps))
  times = (np.array(stamps) - stamps[0]) * float(base)
  mean = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * base)
  for rate in (*stated, mean):
    if np.abs(times - numbers / float(rate)).max() <= max(_JITTER, base):
      return rate, False
  return mean, True
