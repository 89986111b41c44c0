"""Point tracks of benchmarks for point control, and label maps that move along with them.

Tracks are NumPy files: float [F, N, 2] or [1, F, N, 2], (x, y) of N points in each of F frames, in
pixels of the video; integers are pixel centers. Visibility is bool [F, N] or [1, F, N]. This is the
format of Wan-Move and of CoTracker.

Points say how an object moves, not which pixels it has. Its mask in frame 0 is given, or else the
union of squares around its points. The mask then moves with the mean displacement of the points
that are visible both in frame 0 and in the frame. The object is not visible in a frame in which
none of them is.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_tools.sources import decode
from ttm_jax import trajectory_edits
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import InputError
from ttm_jax.media.video_reader import Probe
from ttm_jax.trajectory import read_mask

_LARGEST = 2**28  # Bytes of a NumPy file, 81 frames of 400 000 points.
_SQUARE = 16  # Side of the square around a point: the shorter side of the video over this.


@dataclasses.dataclass(frozen=True)
class Points:
  """The tracks of a video.

  Attributes:
    xy: float [F, N, 2], in pixels of the video.
    visible: bool [F, N].
  """

  xy: np.ndarray
  visible: np.ndarray


@dataclasses.dataclass(frozen=True)
class PointMasks:
  """Masks that follow point tracks; implements `base.Masks`.

  Attributes:
    tracks: NumPy file of the tracks.
    visibility: NumPy file of the visibility; '' if all points are always visible.
    first: mask image of frame 0; '' if there is none. A point belongs to the object that it lies on
      in frame 0.
    together: without `first`, whether all points are one object; else point n is object n.
    path, fps, repeat: as in `Video`.
  """

  tracks: str
  visibility: str
  first: str
  together: bool
  path: str
  fps: float | None = None
  repeat: int = 0

  @property
  def paths(self) -> tuple[str, ...]:
    return tuple(path for path in (self.tracks, self.visibility, self.first) if path)

  @property
  def points(self) -> Points:
    """The tracks, cached until a file changes; InputError as in `read_points`."""
    return _read_once(self.tracks, self.visibility, _stamps(self.paths))

  def check(self, path: str, seen: Probe) -> None:
    frames = len(self.points.xy)
    if frames != seen.frames:
      raise InputError(
        f'{self.tracks}: has {frames} frames, but {path} has {seen.frames}; give one position per'
        ' frame'
      )
    self._objects(seen.size)

  def notes(self) -> list[str]:
    if self.first:
      return ['masks of the first frame moved along point tracks']
    return ['squares around points, moved along their tracks']

  def window(self, numbers: Sequence[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    points = self.points
    size = decode.probe(self.path, self.fps, self.repeat).size
    first, objects = self._objects(size)
    result = np.zeros((len(numbers), *size), np.uint8)
    areas = np.bincount(first.ravel(), minlength=MAX_OBJECTS + 1)
    # Smaller objects are on top.
    present = map(int, np.unique(objects[objects > 0]))
    for obj in sorted(present, key=lambda obj: (-areas[obj], -obj)):
      mine = objects == obj
      both = points.visible[:, mine] & points.visible[:1, mine]
      moved = points.xy[:, mine] - points.xy[:1, mine]
      offsets = (moved * both[..., None]).sum(1) / np.maximum(both.sum(1), 1)[:, None]
      alone = np.broadcast_to(np.where(first == obj, obj, 0).astype(np.uint8), result.shape)
      shown = trajectory_edits.translate(alone, obj, offsets[list(numbers)])
      shown[~both.any(1)[list(numbers)]] = 0
      np.copyto(result, shown, where=shown > 0)
    return np.stack([fit(ids) for ids in result])

  def _objects(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the label map of frame 0, uint8 [H, W], and the object of each point, int [N]."""
    points = self.points
    at = np.floor(points.xy[0] + 0.5).astype(int)[:, ::-1]  # Row and column.
    inside = points.visible[0] & (at >= 0).all(1) & (at < size).all(1)
    at = np.clip(at, 0, np.array(size) - 1)
    if self.first:
      first = read_mask(self.first)
      if first.shape != size:
        raise InputError(
          f'{self.first}: is {first.shape[1]}x{first.shape[0]}, but {self.path} is'
          f' {size[1]}x{size[0]}; give a mask of the same size'
        )
      objects = np.where(inside, first[at[:, 0], at[:, 1]], 0)
      if not objects.any():
        raise InputError(f'{self.tracks}: no visible point starts on an object of {self.first}')
      return np.where(np.isin(first, objects), first, 0).astype(np.uint8), objects
    if not self.together and len(at) > MAX_OBJECTS:
      raise InputError(
        f'{self.tracks}: has {len(at)} points, but at most {MAX_OBJECTS} can be objects of their'
        ' own; give a mask of the first frame'
      )
    objects = np.where(inside, 1 if self.together else np.arange(1, len(at) + 1), 0)
    if not objects.any():
      raise InputError(f'{self.tracks}: no point is visible in the first frame')
    first = np.zeros(size, np.uint8)
    half = max(1, min(size) // (2 * _SQUARE))
    for obj, (row, column) in zip(objects[::-1], at[::-1], strict=True):
      if obj:
        rows = slice(max(0, row - half), row + half + 1)
        first[rows, max(0, column - half) : column + half + 1] = obj
    # A square may be covered by others.
    return first, np.where(np.isin(objects, first), objects, 0)


def read_points(tracks: str | Path, visibility: str | Path = '') -> Points:
  """Read tracks and visibility from NumPy files.

  Raises:
    InputError: if a file cannot be read, or has another shape than the module docstring says.
  """
  xy = _read_array(tracks)
  xy = xy[0] if xy.ndim == 4 and len(xy) == 1 else xy
  if xy.ndim != 3 or xy.shape[2] != 2 or not xy.size or xy.dtype.kind not in 'fiu':
    raise InputError(
      f'{tracks}: must hold numbers [frames, points, 2], got {xy.dtype} {list(xy.shape)}'
    )
  xy = xy.astype(np.float32)
  visible = np.ones(xy.shape[:2], bool)
  if visibility:
    visible = _read_array(visibility)
    visible = visible[0] if visible.ndim == 3 and len(visible) == 1 else visible
    if visible.shape != xy.shape[:2] or visible.dtype.kind not in 'biuf':
      raise InputError(
        f'{visibility}: must hold one value per frame and point {list(xy.shape[:2])}, got'
        f' {visible.dtype} {list(visible.shape)}'
      )
    visible = visible > 0.5
  if not np.isfinite(xy[visible]).all():
    raise InputError(f'{tracks}: a visible point has no finite position; correct it')
  return Points(np.nan_to_num(xy), visible)


def _read_array(path: str | Path) -> np.ndarray:
  """Read a NumPy file without running pickled code."""
  try:
    if os.path.getsize(path) > _LARGEST:
      raise InputError(f'{path}: has more than {_LARGEST} bytes; keep fewer points')
    with open(path, 'rb') as file:
      return np.lib.format.read_array(file, allow_pickle=False)
  except InputError:
    raise
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from error
  except Exception as error:  # NumPy evaluates the header as a Python literal and tokenizes it.
    raise InputError(f'{path}: not a NumPy array of numbers; save it with numpy.save') from error


def _stamps(paths: Sequence[str]) -> tuple[float, ...]:
  return tuple(os.path.getmtime(path) if os.path.exists(path) else 0.0 for path in paths)


@functools.lru_cache(maxsize=4)
def _read_once(tracks: str, visibility: str, _: tuple[float, ...]) -> Points:
  return read_points(tracks, visibility)
