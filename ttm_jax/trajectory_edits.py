"""Edits of trajectories, by users or for augmentation.

Label maps are uint8 [T, H, W]; see `ttm_jax.trajectory`. An edit changes one object and returns a
new label map. Pixels that the object uncovers become background, since what is behind is unknown.
If objects overlap, the smaller one is on top, as in the paper's renderings (supervision draws large
masks first). Sizes are mean areas over the frames that show the object, so that the order does not
flicker within a clip. The edited object is on top of objects of equal size.

A value over time is either one value per frame or keyframes {frame: value}. Values between
keyframes are interpolated linearly; before the first and after the last keyframe they are constant.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.trajectory import LABELS, MAX_OBJECTS, areas, check_ids

OverTime = Mapping[int, float] | Sequence[float] | np.ndarray
PathOverTime = Mapping[int, Sequence[float]] | Sequence[Sequence[float]] | np.ndarray


def translate(ids: np.ndarray, obj: int, path: PathOverTime) -> np.ndarray:
  """Translate an object.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    path: Offsets (x, y) over time, in pixels, x to the right, y down; rounded to whole pixels.
      Parts that leave the image are lost.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist or `path` is invalid.
  """
  mask = _mask(ids, obj)
  offsets = _round(_over_time(path, len(ids), 'the path', (2,)))
  rows = np.arange(ids.shape[1]) - offsets[:, 1:]
  columns = np.arange(ids.shape[2]) - offsets[:, :1]
  return _paint(ids, obj, _resample(mask, rows, columns))


def scale(ids: np.ndarray, obj: int, factors: OverTime) -> np.ndarray:
  """Scale an object about its centroid in each frame.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    factors: Scale factors of lengths over time, above 0. The object keeps at least one pixel.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist or `factors` is invalid.
  """
  mask = _mask(ids, obj)
  factor = _over_time(factors, len(ids), 'the list of factors')
  if (factor <= 0).any():
    raise InputError(f'cannot scale object {obj} by {factor.min():g}; factors must be above 0')
  area = np.maximum(mask.sum(axis=(1, 2)), 1)
  y, x = np.arange(ids.shape[1]), np.arange(ids.shape[2])
  center_y = ((mask.sum(axis=2) @ y) / area)[:, None]
  center_x = ((mask.sum(axis=1) @ x) / area)[:, None]
  rows = _round(center_y + (y - center_y) / factor[:, None])
  columns = _round(center_x + (x - center_x) / factor[:, None])
  scaled = _resample(mask, rows, columns)
  lost = mask.any(axis=(1, 2)) & ~scaled.any(axis=(1, 2))
  scaled[lost, _round(center_y[lost, 0]), _round(center_x[lost, 0])] = True
  return _paint(ids, obj, scaled)


def retime(ids: np.ndarray, obj: int, times: OverTime) -> np.ndarray:
  """Change the timing of an object's motion.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    times: Source frame over time, 0..T-1; the nearest frame is used. For example, {0: 0, T-1:
      (T-1)/2} plays at half speed, {0: T-1, T-1: 0} plays backward.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist or `times` is invalid.
  """
  mask = _mask(ids, obj)
  time = _over_time(times, len(ids), 'the list of times')
  if time.min() < 0 or time.max() > len(ids) - 1:
    wrong = time.min() if time.min() < 0 else time.max()
    raise InputError(f'object {obj} has no frame {wrong:g}; frames run from 0 to {len(ids) - 1}')
  return _paint(ids, obj, mask[_round(time)])


def hold(ids: np.ndarray, obj: int, from_frame: int) -> np.ndarray:
  """Freeze an object: from `from_frame` on, its mask stays the same.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    from_frame: Frame to freeze, 0..T-1; it must show the object.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object or the frame does not exist, or the frame does not show the object.
  """
  mask = _mask(ids, obj)
  if not 0 <= from_frame < len(ids):
    raise InputError(f'there is no frame {from_frame}; frames run from 0 to {len(ids) - 1}')
  if not mask[from_frame].any():
    raise InputError(f'frame {from_frame} does not show object {obj}; hold it from one that does')
  return retime(ids, obj, np.minimum(np.arange(len(ids)), from_frame))


def delete(ids: np.ndarray, obj: int) -> np.ndarray:
  """Remove an object from all frames.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist.
  """
  return np.where(_mask(ids, obj), np.uint8(0), ids)


def corrupt(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
  """Augment ground truth masks with errors like those of generated ones.

  Training on them makes stage 2 robust to errors of stage 1. Each object is dilated or eroded by up
  to 3 pixels, constant over the clip, and is missing in each frame with probability 0.05. Erosion
  does not apply at the image border, nor in frames where it would remove the object. Frame 0 stays
  unchanged, since it is given in inference too.

  Args:
    rng: Random generator.
    ids: uint8 [T, H, W].

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If `ids` is not a label map.
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
  """Return the mask of an object, bool [T, H, W]; raise InputError if it is empty."""
  check_ids(ids)
  mask = ids == obj
  if not 1 <= obj <= MAX_OBJECTS or not mask.any():
    known = ', '.join(map(str, np.unique(ids[ids > 0]))) or 'none'
    raise InputError(f'the trajectory has no object {obj} (its objects: {known})')
  return mask


def _over_time(
  values: Mapping | Sequence | np.ndarray, frames: int, what: str, shape: tuple[int, ...] = ()
) -> np.ndarray:
  """Return one value per frame, float64 [T, *shape], from values per frame or keyframes."""
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
  """Round to the nearest integer, halves up; half to even would widen every other object."""
  return np.floor(x + 0.5).astype(np.int64)


def _resample(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Sample each frame at its own rows int [T, H] and columns int [T, W]; False outside."""

  def inside(index, size):
    return np.clip(index, 0, size - 1), (index >= 0) & (index < size)

  rows, row_inside = inside(rows, mask.shape[1])
  columns, column_inside = inside(columns, mask.shape[2])
  moved = np.take_along_axis(mask, rows[:, :, None], axis=1)
  moved = np.take_along_axis(moved, columns[:, None, :], axis=2)
  return moved & row_inside[:, :, None] & column_inside[:, None, :]


def _mean_areas(ids: np.ndarray) -> np.ndarray:
  """Return the mean area of each label over the frames that show it: float [9], 0 if absent."""
  area = areas(ids)
  return area.sum(axis=0) / np.maximum((area > 0).sum(axis=0), 1)


def _paint(ids: np.ndarray, obj: int, mask: np.ndarray) -> np.ndarray:
  """Replace an object's masks, bool [T, H, W], behind the objects that are smaller."""
  others = np.where(ids == obj, np.uint8(0), ids)
  below = _mean_areas(others) >= _mean_areas(mask.astype(np.uint8))[1]
  below[0] = True
  return np.where(mask & below[others], np.uint8(obj), others)


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
  """Dilate a mask, bool [T, H, W], with a square of side 2 * radius + 1, within the image."""
  tall = mask.copy()
  for shift in range(1, radius + 1):
    tall[:, shift:] |= mask[:, :-shift]
    tall[:, :-shift] |= mask[:, shift:]
  grown = tall.copy()
  for shift in range(1, radius + 1):
    grown[..., shift:] |= tall[..., :-shift]
    grown[..., :-shift] |= tall[..., shift:]
  return grown
