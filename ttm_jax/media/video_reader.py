"""Read video files: the frames that a player displays, upright, with their timestamps.

No other module decodes video files. Only displayed frames are returned, not all stored ones: edit
lists hide frames of clips that were trimmed without re-encoding, and some codecs store frames that
are never displayed. Rotation and mirroring (the display matrix of phones) are applied. Embedded
cover art is skipped. Timestamps that restart (concatenated transport streams) are made monotonic.
High dynamic range and damaged files are rejected.
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

# File name extensions by FFmpeg's name of the container format. Files are decoded by content; the
# extension only determines which files of a folder are videos. If a folder has one video in several
# formats, the extension that comes first here is preferred.
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

# Formats that FFmpeg may open. Playlists (HLS, DASH, concat) are excluded, since they can refer to
# other files or hosts.
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
# Flag of formats whose timestamps may jump (AVFMT_TS_DISCONT), and FFmpeg's threshold for a jump.
_DISCONTINUOUS = 0x0200
_JUMP = 10  # Seconds.
# Maximum distance, in frames, between the storage order and the display order of a codec.
_REORDERED = 16
# Tolerance in seconds for a constant frame rate, since containers round timestamps.
_JITTER = Fraction(1, 500)


@dataclasses.dataclass(frozen=True)
class Probe:
  """Properties of a video, found by decoding it once.

  Attributes:
    frames: Number of displayed frames.
    fps: Mean frame rate in frames per second.
    varies: Whether the frame rate is variable.
    size: (H, W) upright, in stored pixels, before `aspect` is applied.
    aspect: Pixel aspect ratio, width over height.
    times: Seconds since the first frame, per frame; empty if the frame rate is constant.
    hidden: Number of frames that the file stores but an edit list hides.
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
  """One frame; its conversion to RGB is deferred.

  Attributes:
    number: Index of the frame, from 0.
    time: Seconds since the first frame.
    pixels: Function that returns the frame as uint8 [H, W, 3].
  """

  number: int
  time: Fraction
  pixels: Callable[[], np.ndarray]


def is_video(path: Path) -> bool:
  """Return whether a path has a video extension and is not hidden (such as `._a.mp4` of macOS)."""
  return path.suffix.lower() in EXTENSIONS and not path.name.startswith('.')


def probe(path: PathLike) -> Probe:
  """Decode a video file once and return its properties; results are cached per file state.

  If the file is damaged in the middle, `frames` is the number of frames that it should have.

  Raises:
    InputError: If the file is missing, not a video, truncated or of high dynamic range, or has no
      frames or no frame rate.
  """
  try:
    state = os.stat(path)
  except (OSError, ValueError):
    state = None
  if state is None or not os.path.isfile(path):
    raise InputError(f'{path}: there is no such video file; check the path')
  return _probe(os.fspath(path), (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size))


def seconds(path: PathLike) -> float:
  """Return the approximate duration of a video in seconds, from its header; 0 if unknown."""
  try:
    with _opened(path) as (container, _):
      return (container.duration or 0) / av.time_base
  except (av.FFmpegError, LookupError, InputError):
    return 0


def frames(path: PathLike, seen: Probe) -> Iterator[Frame]:
  """Yield the frames of a video file in display order, with one frame in memory at a time.

  Args:
    path: The video file.
    seen: The result of `probe` for this file.

  Raises:
    InputError: If the video is damaged; raised at the first bad frame.
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
  """Return the frame rate of a video file, in frames per second, and its frames, uint8 [H, W, 3].

  Raises:
    InputError: See `probe` and `frames`; or if the frame size changes, raised at that frame.
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
  """Return all frames of a video file, uint8 [T, H, W, 3], and its frame rate in frames per second.

  Raises:
    InputError: See `stream_video`.
  """
  fps, pixels = stream_video(path)
  return np.stack(list(pixels)), fps


def upright(frame: av.VideoFrame) -> np.ndarray:
  """Return a decoded frame as uint8 [H, W, 3], with its display matrix applied."""
  pixels = frame.to_ndarray(format='rgb24')
  swapped, flip_x, flip_y = _orientation(frame)
  if swapped:
    pixels = pixels.swapaxes(0, 1)
  return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
  """Return whether to swap x and y, and whether to mirror x and y after that.

  The display matrix (nine int32, row-major; ISO 14496-12, 6.2.2) maps the pixel (x, y) to
  (a x + c y, b x + d y), up to a translation. Other angles are rounded to multiples of 90 degrees.
  """
  try:
    matrix = frame.side_data.get('DISPLAYMATRIX')
  except ValueError:
    # PyAV cannot list side data of types that it does not know (Exif). It still gives the rotation,
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
  """Open a video file and select its video stream.

  Raises:
    InputError: If the file has no video stream, or the codec is unknown.
    av.FFmpegError: If the file cannot be opened.
  """
  # Without "file:", FFmpeg reads a name with a colon as a protocol. Metadata may not be UTF-8.
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
    # Of several streams, one with an image codec is most likely cover art without the flag.
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
  """Results of one pass over a video file.

  Attributes:
    stored: Number of packets with a frame, displayed or not.
    discarded: Number of these packets that an edit list hides.
    stamps: Timestamp of each displayed frame, in units of `time_base`; None if unknown.
    first: The first frame.
    damaged: Whether decoding ended early.
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
  # mp4 may omit the packets of frames that an edit list hides from its index.
  due = min(declared, listed) if lists_all else declared
  if stamps and stated and not lists_all:
    # Screen recorders write an unchanged frame as an empty AVI packet.
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
  """Return the timestamps of all frames in ascending order.

  - If timestamps restart, or jump ahead by more than `jump`, a new segment begins. It is shifted to
    follow the previous one at the usual frame distance.
  - Containers without presentation times (AVI) mix up the timestamps of reordered frames. These are
    sorted.
  - Single timestamps that are missing, repeated or far off are interpolated.

  Args:
    stamps: Timestamp of each displayed frame; None if unknown.
    jump: Smallest jump that starts a new segment, in the unit of `stamps`; None if timestamps of
      the format do not jump.

  Returns:
    One timestamp per frame, in the unit of `stamps`; empty if fewer than two are known.
  """
  known = [(number, stamp) for number, stamp in enumerate(stamps) if stamp is not None]
  gaps = [(b - a) / (j - i) for (i, a), (j, b) in itertools.pairwise(known)]
  if not any(gap > 0 for gap in gaps):
    return []
  # Gaps next to a backward step are not representative of the usual frame distance.
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
      # The frame is only reordered if its timestamp fills a gap between recent ones.
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
  """Return the frames per second (0 if unknown), and whether the frame rate is variable.

  A rate in the file's header is exact, and preferred to the mean, if the timestamps agree with it.

  Args:
    stamps: Ascending timestamps, in units of `base`.
    base: Seconds per unit.
    stated: Frame rates in the file's header.
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
