"""A video cut into drafts of the wanted length, rate and size, one window in memory at a time.

Of each moment k / fps the frame nearest in time is taken, the later of two equally near: by the
container's time stamps where the rate varies, else by the mean rate. So no video changes its speed.
A video slower than the wanted rate is refused, since frames would have to be invented.

Frames are scaled until they just cover the size, and cropped centrally. Frames are resampled
bicubically with antialiasing, label maps by nearest neighbour, both from the same box: pixel (y, x)
of a label map is the one of the source that holds the centre of the cell.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from PIL import Image

from data_tools.drafts import Draft
from data_tools.sources import decode
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window
from ttm_jax.errors import InputError

_SLOWEST = Fraction(99, 100)  # A source of 23.976 fps passes for 24.


@dataclasses.dataclass(frozen=True)
class Crop:
  """The central part of a picture that fills the clip, and its scaling.

  Attributes:
    source: (H, W) of the picture.
    size: (H, W) of the clip.
    box: x0, y0, x1, y1 in pixels of the picture.
  """

  source: tuple[int, int]
  size: tuple[int, int]
  box: tuple[float, float, float, float]

  @classmethod
  def central(
    cls, source: tuple[int, int], size: tuple[int, int], aspect: Fraction = Fraction(1)
  ) -> 'Crop':
    """Shortest-side resize and centre crop, for pixels `aspect` times as wide as high."""
    shape = np.array([source[1] * float(aspect), source[0]])  # As seen, in heights of a pixel.
    scale = max(size[1] / shape[0], size[0] / shape[1])
    half = np.array([size[1], size[0]]) / scale / 2
    unit = np.array([float(aspect), 1.0])
    low, high = np.maximum(shape / 2 - half, 0) / unit, np.minimum(shape / 2 + half, shape) / unit
    return cls(source, size, (float(low[0]), float(low[1]), float(high[0]), float(high[1])))

  def pixels(self, frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of the source to the clip."""
    return self._resized(frame, Image.Resampling.BICUBIC)

  def labels(self, ids: np.ndarray) -> np.ndarray:
    """uint8 [H, W] of the source to the clip."""
    return self._resized(ids, Image.Resampling.NEAREST)

  def _resized(self, array: np.ndarray, method: Image.Resampling) -> np.ndarray:
    if array.shape[:2] != self.source:
      raise InputError(
        f'a frame of {array.shape[1]}x{array.shape[0]} among frames of'
        f' {self.source[1]}x{self.source[0]}; make them one size'
      )
    return np.asarray(Image.fromarray(array).resize(self.size[::-1], method, self.box))


@dataclasses.dataclass
class Cut:
  """What became of one video; filled while its drafts are drawn.

  Attributes:
    how: in words, what was resampled; empty until the video is at its end.
    windows: drafts so far.
    repeated: frames that stand for more than one moment, because the rate varies.
  """

  how: str = ''
  windows: int = 0
  repeated: int = 0


def drafts(video: Video, window: Window, cut: Cut | None = None) -> Iterator[Draft]:
  """The drafts of a video, with label maps where it has masks.

  Raises:
    InputError: the video or its masks cannot be used; drafts that came before are good.
  """
  cut = Cut() if cut is None else cut
  if video.problem:
    raise InputError(video.problem)
  seen = decode.probe(video.path, video.fps)
  check(video, seen, window)
  crop = Crop.central(seen.size, window.size, seen.aspect)
  held: collections.deque[tuple[int, np.ndarray]] = collections.deque(maxlen=window.frames)
  count, before = 0, -1
  for frame in _at_rate(decode.frames(video.path, seen), seen.fps, window.fps):
    cut.repeated += frame.number == before
    before = frame.number
    # With gaps between windows, some frames are needed by none.
    position = count % window.stride
    if position < window.frames or window.stride <= window.frames:
      held.append((frame.number, crop.pixels(frame.pixels())))
    count += 1
    if count >= window.frames and (count - window.frames) % window.stride == 0:
      numbers = [number for number, _ in held]
      said = video.description
      cut.windows += 1
      yield Draft(
        key=f'{video.key}/{numbers[0]:05d}',
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
    f'{seen.frames} frames at {float(seen.fps):g} fps -> {count} at {window.fps:g},'
    f' {width}x{height} cropped to {x1 - x0:.0f}x{y1 - y0:.0f} ->'
    f' {window.size[1]}x{window.size[0]}'
  )
  if seen.varies:
    cut.how += f', by time stamps since its rate varies ({cut.repeated} frames repeated)'
  if video.masks is not None and (notes := video.masks.notes()):
    cut.how += f', masks: {"; ".join(notes)}'


def expected(video: Video, window: Window) -> int:
  """About how many drafts a video will give; 0 where it cannot be read."""
  if video.problem:
    return 0
  try:
    seconds = decode.seconds(video.path, video.fps)
  except InputError:
    return 0
  frames = round(seconds * window.fps)
  return max(0, (frames - window.frames) // window.stride + 1)


def check(video: Video, seen: decode.Probe, window: Window) -> None:
  """Raises InputError where a video is too slow, or its masks are not those of its frames."""
  if seen.fps < _SLOWEST * Fraction(window.fps):
    raise InputError(
      f'{video.path}: has {float(seen.fps):g} fps; ask for at most that, not {window.fps:g}'
    )
  if video.masks is not None:
    video.masks.check(video.path, seen)


def bucket(video: Video, windows: list[Window]) -> Window:
  """The window that suits a video: the nearest shape, and of these the longest that it fills.

  Shapes are compared by the logarithm of width over height. Where none is short enough, the
  shortest is returned, and gives no draft.

  Raises:
    InputError: the video cannot be read.
  """
  if len(windows) == 1 or video.problem:
    return windows[0]
  seen = decode.probe(video.path, video.fps)
  shape = math.log(seen.size[1] * float(seen.aspect) / seen.size[0])
  distance = {w: abs(math.log(w.size[1] / w.size[0]) - shape) for w in windows}
  nearest = [w for w in windows if distance[w] - min(distance.values()) < 1e-9]
  seconds = seen.frames / float(seen.fps)
  filled = [w for w in nearest if w.frames <= seconds * w.fps + 0.5]
  return max(filled or nearest, key=lambda w: w.frames if filled else -w.frames)


def _at_rate(frames: Iterator[decode.Frame], rate: Fraction, fps: float) -> Iterator[decode.Frame]:
  """Of each moment k / fps the frame nearest in time; of equals the later."""
  step = 1 / Fraction(fps).limit_denominator(1001)
  moment, before = Fraction(0), None
  for frame in frames:
    while before is not None and moment - before.time < frame.time - moment:
      yield before
      moment += step
    before = frame
  # The last frame is shown for as long as the others.
  while before is not None and moment - before.time < 1 / rate / 2:
    yield before
    moment += step
