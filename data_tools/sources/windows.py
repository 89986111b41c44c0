"""Cut a video into drafts of a given length, frame rate and size, one window in memory at a time.

For each time k / fps, take the nearest frame, or the later one of two equally near. Times come from
the container's timestamps if the frame rate varies, else from the mean rate. The playback speed
never changes. A video slower than the requested rate is rejected, since frames would be missing.

Frames are resized to cover the target size and center-cropped. Resampling is bicubic with
antialiasing for frames, and nearest neighbor for label maps, from the same crop box. A pixel of the
label map thus takes the label of the source pixel at its center.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np
from PIL import Image

from data_tools.drafts import Draft
from data_tools.sources import decode
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window
from ttm_jax.errors import InputError
from ttm_jax.media.video_reader import Frame, Probe

Taken = TypeVar('Taken')

_SLOWEST = Fraction(99, 100)  # Tolerance, so that 23.976 fps is accepted as 24.


@dataclasses.dataclass(frozen=True)
class Crop:
  """A center crop of the source frames, resized to the clip.

  Attributes:
    source: (H, W) of the source frames, in pixels.
    size: (H, W) of the clip, in pixels.
    box: crop box (x0, y0, x1, y1), in pixels of the source.
  """

  source: tuple[int, int]
  size: tuple[int, int]
  box: tuple[float, float, float, float]

  @classmethod
  def central(
    cls, source: tuple[int, int], size: tuple[int, int], aspect: Fraction = Fraction(1)
  ) -> 'Crop':
    """Return the crop for a resize to cover the target size, followed by a center crop.

    Args:
      source: (H, W) of the source frames.
      size: (H, W) of the clip.
      aspect: pixel aspect ratio of the source, width over height.
    """
    # (width, height) as displayed, in units of the height of a pixel.
    shape = np.array([source[1] * float(aspect), source[0]])
    scale = max(size[1] / shape[0], size[0] / shape[1])
    half = np.array([size[1], size[0]]) / scale / 2
    unit = np.array([float(aspect), 1.0])
    low, high = np.maximum(shape / 2 - half, 0) / unit, np.minimum(shape / 2 + half, shape) / unit
    return cls(source, size, (float(low[0]), float(low[1]), float(high[0]), float(high[1])))

  def pixels(self, frame: np.ndarray) -> np.ndarray:
    """Crop and resize a source frame uint8 [H, W, 3] to the clip, bicubic.

    Raises:
      InputError: if the frame is not of the size `source`.
    """
    return self._resized(frame, Image.Resampling.BICUBIC)

  def labels(self, ids: np.ndarray) -> np.ndarray:
    """Crop and resize a source label map uint8 [H, W] to the clip, nearest neighbor.

    Raises:
      InputError: if the label map is not of the size `source`.
    """
    return self._resized(ids, Image.Resampling.NEAREST)

  def points(self, xy: np.ndarray) -> np.ndarray:
    """Map points of source frames to the clip, float [..., 2]; integers are pixel centers."""
    x0, y0, x1, y1 = self.box
    scale = np.array([self.size[1] / (x1 - x0), self.size[0] / (y1 - y0)])
    return (np.asarray(xy) + 0.5 - [x0, y0]) * scale - 0.5

  def _resized(self, array: np.ndarray, method: Image.Resampling) -> np.ndarray:
    if array.shape[:2] != self.source:
      raise InputError(
        f'a frame has {array.shape[1]}x{array.shape[0]} pixels, not'
        f' {self.source[1]}x{self.source[0]} as the first; give all frames one size'
      )
    return np.asarray(Image.fromarray(array).resize(self.size[::-1], method, self.box))


@dataclasses.dataclass
class Cut:
  """Statistics of one video, filled in while its drafts are generated.

  Attributes:
    how: summary of the resampling for the report; empty until the last draft.
    windows: number of drafts so far.
    frames: number of output frames so far, also outside of windows.
    repeated: number of output frames that repeat the frame before, if the frame rate varies.
  """

  how: str = ''
  windows: int = 0
  frames: int = 0
  repeated: int = 0

  @property
  def summary(self) -> str:
    """How the video was read, for the report."""
    return f'{self.how}, {self.windows} windows'

  def failed(self, why: str) -> str:
    """Return why the video could not be read to its end, for the report."""
    return f'{self.windows} windows, then not used: {why}' if self.windows else f'not used: {why}'


def drafts(video: Video, window: Window, cut: Cut | None = None) -> Iterator[Draft]:
  """Yield the drafts of a video, with label maps if the video has masks.

  Args:
    video: the video.
    window: length, stride, frame rate and size of the drafts.
    cut: receives the statistics of the video.

  Raises:
    InputError: if the video or its masks cannot be used. Drafts yielded before are valid.
  """
  cut = Cut() if cut is None else cut
  if video.problem:
    raise InputError(video.problem)
  seen = video.probe()
  check(video, seen, window)
  crop = Crop.central(seen.size, window.size, seen.aspect)
  for held in _windows(video, seen, window, cut, lambda frame: crop.pixels(frame.pixels())):
    numbers = [number for number, _ in held]
    said = video.description
    yield Draft(
      key=clip_key(video, numbers),
      video=np.stack([pixels for _, pixels in held]),
      fps=window.fps,
      caption=said.caption,
      motion=said.motion,
      names=dict(said.names),
      prompts=dict(said.prompts),
      ids=None if video.masks is None else video.masks.window(numbers, crop.labels),
    )
  x0, y0, x1, y1 = crop.box
  height, width = seen.size
  cut.how = (
    f'{seen.frames} frames at {float(seen.fps):g} fps -> {cut.frames} at {window.fps:g},'
    f' {width}x{height} cropped to {x1 - x0:.0f}x{y1 - y0:.0f} ->'
    f' {window.size[1]}x{window.size[0]}'
  )
  if seen.varies:
    cut.how += f', by time stamps since its rate varies ({cut.repeated} frames repeated)'
  if video.masks is not None and (notes := video.masks.notes()):
    cut.how += f', masks: {"; ".join(notes)}'


def clip_key(video: Video, numbers: Sequence[int]) -> str:
  """Return the key of the clip that starts with the first of the given source frames."""
  return f'{video.key}/{numbers[0]:05d}'


def frame_numbers(video: Video, window: Window) -> Iterator[list[int]]:
  """Yield the numbers of the source frames of each draft of a video.

  Raises:
    InputError: as in `drafts`.
  """
  if video.problem:
    raise InputError(video.problem)
  seen = video.probe()
  check(video, seen, window)
  for held in _windows(video, seen, window, Cut(), lambda frame: None):
    yield [number for number, _ in held]


def _windows(
  video: Video, seen: Probe, window: Window, cut: Cut, take: Callable[[Frame], Taken]
) -> Iterator[list[tuple[int, Taken]]]:
  """Yield, for each window, the numbers of its source frames and what `take` returns of them."""
  held: collections.deque[tuple[int, Taken]] = collections.deque(maxlen=window.frames)
  before = -1
  for frame in _at_rate(video.frames(seen), seen.fps, window.fps):
    cut.repeated += frame.number == before
    before = frame.number
    # If the stride exceeds the length of a window, skip the frames between windows.
    position = cut.frames % window.stride
    if position < window.frames or window.stride <= window.frames:
      held.append((frame.number, take(frame)))
    cut.frames += 1
    if cut.frames >= window.frames and (cut.frames - window.frames) % window.stride == 0:
      cut.windows += 1
      yield list(held)


def expected(video: Video, window: Window) -> int:
  """Estimate the number of drafts of a video; 0 if the video cannot be read."""
  if video.problem:
    return 0
  try:
    seconds = decode.seconds(video.path, video.fps, video.repeat)
  except InputError:
    return 0
  frames = round(seconds * window.fps)
  return max(0, (frames - window.frames) // window.stride + 1)


def check(video: Video, seen: Probe, window: Window) -> None:
  """Raise InputError if the frame rate is too low, or the masks do not match the frames."""
  if seen.fps < _SLOWEST * Fraction(window.fps):
    raise InputError(
      f'{video.path}: has {float(seen.fps):g} fps, fewer than the {window.fps:g} of the clips; give'
      ' a lower --fps'
    )
  if video.masks is not None:
    video.masks.check(video.path, seen)


def bucket(video: Video, windows: list[Window]) -> Window:
  """Return the window (bucket) for a video.

  Choose the windows with the nearest aspect ratio, by the difference of log(width / height). Of
  these, choose the longest that the video fills. If the video is too short for all of them, return
  the shortest, which yields no draft.

  Raises:
    InputError: if the video cannot be read.
  """
  if len(windows) == 1 or video.problem:
    return windows[0]
  seen = video.probe()
  shape = math.log(seen.size[1] * float(seen.aspect) / seen.size[0])
  distance = {w: abs(math.log(w.size[1] / w.size[0]) - shape) for w in windows}
  nearest = [w for w in windows if distance[w] - min(distance.values()) < 1e-9]
  seconds = seen.frames / float(seen.fps)
  filled = [w for w in nearest if w.frames <= seconds * w.fps + 0.5]
  return max(filled or nearest, key=lambda w: w.frames if filled else -w.frames)


def _at_rate(frames: Iterator[Frame], rate: Fraction, fps: float) -> Iterator[Frame]:
  """Yield the frame nearest to each time k / fps, or the later of two equally near.

  Args:
    frames: frames in display order.
    rate: mean frame rate of the video.
    fps: output frame rate.
  """
  step = 1 / Fraction(fps).limit_denominator(1001)
  moment, before = Fraction(0), None
  for frame in frames:
    while before is not None and moment - before.time < frame.time - moment:
      yield before
      moment += step
    before = frame
  # The last frame has no successor; it covers half a frame duration past its timestamp.
  while before is not None and moment - before.time < 1 / rate / 2:
    yield before
    moment += step
