"""What a user, or an augmentation, changes in a trajectory: functions of label maps.

Label maps are uint8 [T, H, W], see `ttm_jax.trajectory`. An edit changes one object and leaves its
argument alone. What the object uncovers becomes background, as nobody has seen what is behind.
Where it meets another object, the smaller one is on top, as in the paper's renderings (supervision
paints large masks first); "smaller" compares the mean areas over the frames that show each, so
that the order does not flicker within a clip. The edited object wins between equals.

A value "over time" is one value a frame, or key points {frame: value}, between which it runs
linearly; before the first and after the last key point it stays.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.trajectory import LABELS, MAX_OBJECTS, areas, check_ids

OverTime = Mapping[int, float] | Sequence[float] | np.ndarray
PathOverTime = Mapping[int, Sequence[float]] | Sequence[Sequence[float]] | np.ndarray


def translate(ids: np.ndarray, obj: int, path: PathOverTime) -> np.ndarray:
  """Moves an object from where it is.

  Args:
    path: offsets (x, y) in pixels over time, x to the right, y down; rounded to whole pixels. What
      leaves the picture is gone.
  """
  mask = _mask(ids, obj)
  offsets = _round(_over_time(path, len(ids), 'the path', (2,)))
  rows = np.arange(ids.shape[1]) - offsets[:, 1:]
  columns = np.arange(ids.shape[2]) - offsets[:, :1]
  return _paint(ids, obj, _resample(mask, rows, columns))


def scale(ids: np.ndarray, obj: int, factors: OverTime) -> np.ndarray:
  """Grows or shrinks an object about its centroid in each frame.

  Args:
    factors: ratios of lengths over time, above 0. An object keeps at least a pixel.
  """
  mask = _mask(ids, obj)
  factor = _over_time(factors, len(ids), 'the list of factors')
  if (factor <= 0).any():
    raise InputError(f'cannot scale object {obj} by {factor.min():g}; factors must be above 0')
  area = np.maximum(mask.sum(axis=(1, 2)), 1)
  y, x = np.arange(ids.shape[1]), np.arange(ids.shape[2])
  centre_y = ((mask.sum(axis=2) @ y) / area)[:, None]
  centre_x = ((mask.sum(axis=1) @ x) / area)[:, None]
  rows = _round(centre_y + (y - centre_y) / factor[:, None])
  columns = _round(centre_x + (x - centre_x) / factor[:, None])
  scaled = _resample(mask, rows, columns)
  lost = mask.any(axis=(1, 2)) & ~scaled.any(axis=(1, 2))
  scaled[lost, _round(centre_y[lost, 0]), _round(centre_x[lost, 0])] = True
  return _paint(ids, obj, scaled)


def retime(ids: np.ndarray, obj: int, times: OverTime) -> np.ndarray:
  """Shows an object as it is at other times.

  Args:
    times: the frame time to read over time, 0..T-1; the nearest frame is taken. {0: 0, T-1:
      (T-1)/2} plays at half speed, {0: T-1, T-1: 0} backwards.
  """
  mask = _mask(ids, obj)
  time = _over_time(times, len(ids), 'the list of times')
  if time.min() < 0 or time.max() > len(ids) - 1:
    wrong = time.min() if time.min() < 0 else time.max()
    raise InputError(f'object {obj} has no frame {wrong:g}; frames run from 0 to {len(ids) - 1}')
  return _paint(ids, obj, mask[_round(time)])


def hold(ids: np.ndarray, obj: int, from_frame: int) -> np.ndarray:
  """Freezes an object: from `from_frame` on, it stays as it is there."""
  mask = _mask(ids, obj)
  if not 0 <= from_frame < len(ids):
    raise InputError(f'there is no frame {from_frame}; frames run from 0 to {len(ids) - 1}')
  if not mask[from_frame].any():
    raise InputError(f'frame {from_frame} does not show object {obj}; hold it from one that does')
  return retime(ids, obj, np.minimum(np.arange(len(ids)), from_frame))


def delete(ids: np.ndarray, obj: int) -> np.ndarray:
  """Takes an object out of the clip."""
  return np.where(_mask(ids, obj), np.uint8(0), ids)


def corrupt(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
  """Makes true masks look generated, so that the second stage learns to forgive the first.

  Each object is dilated or eroded by up to 3 pixels, the same through the clip, and each of its
  frames is lost with probability 0.05. Erosion spares a frame in which nothing would be left, and
  the border of the picture. Frame 0 stays as it is: it is given when generating, too.
  """
  check_ids(ids)
  radii = rng.integers(-3, 4, size=LABELS)
  dropped = rng.random((LABELS, len(ids))) < 0.05
  result = np.zeros_like(ids)
  mean = _mean_areas(ids)
  for obj in sorted(np.unique(ids[ids > 0]), key=lambda label: -mean[label]):
    mask, radius = ids == obj, int(radii[obj])
    changed = _dilate(mask, radius) if radius > 0 else ~_dilate(~mask, -radius)
    changed = np.where(changed.any(axis=(1, 2), keepdims=True), changed, mask)
    changed[dropped[obj]] = False
    result[changed] = obj
  result[:1] = ids[:1]
  return result


def _mask(ids: np.ndarray, obj: int) -> np.ndarray:
  """Where an object is, bool [T, H, W]; raises InputError where it is nowhere."""
  check_ids(ids)
  mask = ids == obj
  if not 1 <= obj <= MAX_OBJECTS or not mask.any():
    known = ', '.join(map(str, np.unique(ids[ids > 0]))) or 'none'
    raise InputError(f'the trajectory has no object {obj} (its objects: {known})')
  return mask


def _over_time(
  values: Mapping | Sequence | np.ndarray, frames: int, what: str, shape: tuple[int, ...] = ()
) -> np.ndarray:
  """One value a frame, float64 [T, *shape], from one a frame or from key points."""
  entry = 'an (x, y) pair' if shape else 'a number'
  try:
    array = np.array([*values.values()] if isinstance(values, Mapping) else values, np.float64)
  except (TypeError, ValueError) as error:
    raise InputError(f'{what} must have {entry} at every place') from error
  if isinstance(values, Mapping) and not values:
    raise InputError(f'{what} has no key points; give at least one {{frame: value}}')
  if array.ndim == 0 or array.shape[1:] != shape or not np.isfinite(array).all():
    raise InputError(f'{what} must have {entry}, finite, at every place')
  if not isinstance(values, Mapping):
    if len(array) != frames:
      raise InputError(
        f'{what} has {len(array)} entries for {frames} frames; give one a frame, or key points'
        ' {frame: value}'
      )
    return array
  for key in values:
    if not isinstance(key, int | np.integer) or not 0 <= key < frames:
      raise InputError(f'{what} has a key point at frame {key}; frames run from 0 to {frames - 1}')
  keys = np.array([*values])
  order = keys.argsort()
  columns = array[order].reshape(len(keys), -1).T
  each = [np.interp(np.arange(frames), keys[order], column) for column in columns]
  return np.stack(each, axis=-1).reshape(frames, *shape)


def _round(x: np.ndarray) -> np.ndarray:
  """To the nearest whole number, halves up (not to even, which would widen every other object)."""
  return np.floor(x + 0.5).astype(np.int64)


def _resample(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Reads every frame at its own rows int [T, H] and columns int [T, W]; False outside."""

  def inside(index, size):
    return np.clip(index, 0, size - 1), (index >= 0) & (index < size)

  rows, row_inside = inside(rows, mask.shape[1])
  columns, column_inside = inside(columns, mask.shape[2])
  moved = np.take_along_axis(mask, rows[:, :, None], axis=1)
  moved = np.take_along_axis(moved, columns[:, None, :], axis=2)
  return moved & row_inside[:, :, None] & column_inside[:, None, :]


def _mean_areas(ids: np.ndarray) -> np.ndarray:
  """The mean area of each label over the frames that show it: float [9], 0 for an absent one."""
  area = areas(ids)
  return area.sum(axis=0) / np.maximum((area > 0).sum(axis=0), 1)


def _paint(ids: np.ndarray, obj: int, mask: np.ndarray) -> np.ndarray:
  """Gives an object new masks, bool [T, H, W], behind the objects that are smaller."""
  others = np.where(ids == obj, np.uint8(0), ids)
  below = _mean_areas(others) >= _mean_areas(mask.astype(np.uint8))[1]
  below[0] = True
  return np.where(mask & below[others], np.uint8(obj), others)


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
  """Grows a bool mask [T, H, W] by a square of 2 radius + 1 pixels a side, within the picture."""
  tall = mask.copy()
  for shift in range(1, radius + 1):
    tall[:, shift:] |= mask[:, :-shift]
    tall[:, :-shift] |= mask[:, shift:]
  grown = tall.copy()
  for shift in range(1, radius + 1):
    grown[..., shift:] |= tall[..., :-shift]
    grown[..., :-shift] |= tall[..., shift:]
  return grown
