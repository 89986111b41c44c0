"""Values over time: keyframes with linear or smooth interpolation, and positions along a path.

A value over time is either one value per frame or keyframes {frame: value}. Before the first and
after the last keyframe it is constant. Between keyframes it is linear, or smooth: a cubic that
neither overshoots a keyframe nor leaves the range of its two neighbors, so that an object with two
equal keyframes stands still between them (Fritsch and Butland, "A method for constructing local
monotone piecewise cubic interpolants", SIAM J. Sci. Stat. Comput. 5(2), 1984).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ttm_jax.errors import InputError

OverTime = Mapping[int, float] | Sequence[float] | np.ndarray
PathOverTime = Mapping[int, Sequence[float]] | Sequence[Sequence[float]] | np.ndarray

LINEAR = ((0.0, 0.0), (1.0, 1.0))
"""The speed curve of a constant speed: (share of the time, share of the path) points."""


def over_time(
  values: Mapping | Sequence | np.ndarray,
  frames: int,
  what: str,
  shape: tuple[int, ...] = (),
  smooth: bool = False,
) -> np.ndarray:
  """Return one value per frame, float64 [T, *shape], from values per frame or keyframes.

  Args:
    values: T values, or keyframes {frame: value}.
    frames: T.
    what: Name of the values, for error messages.
    shape: Shape of one value, () or (2,).
    smooth: Whether to interpolate keyframes smoothly instead of linearly.

  Raises:
    InputError: If a value is not finite or has another shape, the number of values is not T, or a
      keyframe is not a frame.
  """
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
  between = smoothly if smooth else _linearly
  each = [between(keys[order], column, np.arange(frames)) for column in columns]
  return np.stack(each, axis=-1).reshape(frames, *shape)


def checked_range(count: int, start: int, stop: int | None) -> tuple[int, int]:
  """Return the first and last frame of a range; `stop` is by default the last of `count` frames.

  Raises:
    InputError: If a frame does not exist, or the last is before the first.
  """
  stop = count - 1 if stop is None else stop
  for frame in (start, stop):
    if not 0 <= frame < count:
      raise InputError(f'there is no frame {frame}; frames run from 0 to {count - 1}')
  if stop < start:
    raise InputError(f'frames {start} to {stop} are none; the last must not be before the first')
  return start, stop


def _linearly(keys: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
  return np.interp(at, keys, values)


def smoothly(keys: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
  """Interpolate with a monotone piecewise cubic; constant outside of the keys.

  Args:
    keys: Increasing, [n] with n >= 1.
    values: [n].
    at: Where to interpolate, [m].

  Returns:
    float64 [m].
  """
  keys, values = np.asarray(keys, np.float64), np.asarray(values, np.float64)
  if len(keys) < 3:  # The cubic through two points is the line.
    return np.interp(at, keys, values)
  width = np.diff(keys)
  slope = np.diff(values) / width
  tangent = np.zeros(len(keys))
  before, after = slope[:-1], slope[1:]
  weight = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
  same = before * after > 0
  tangent[1:-1][same] = (weight[0] + weight[1])[same] / (
    weight[0][same] / before[same] + weight[1][same] / after[same]
  )
  tangent[0] = _end_tangent(width[0], width[1], slope[0], slope[1])
  tangent[-1] = _end_tangent(width[-1], width[-2], slope[-1], slope[-2])
  x = np.clip(np.asarray(at, np.float64), keys[0], keys[-1])
  i = np.clip(np.searchsorted(keys, x, 'right') - 1, 0, len(width) - 1)
  h = width[i]
  t = (x - keys[i]) / h
  return (
    values[i] * (1 + 2 * t) * (1 - t) ** 2
    + values[i + 1] * t**2 * (3 - 2 * t)
    + h * tangent[i] * t * (1 - t) ** 2
    + h * tangent[i + 1] * t**2 * (t - 1)
  )


def _end_tangent(width: float, next_width: float, slope: float, next_slope: float) -> float:
  """Return the tangent at an end: the three-point estimate, limited so that it stays monotone."""
  tangent = ((2 * width + next_width) * slope - width * next_slope) / (width + next_width)
  if tangent * slope <= 0:
    return 0.0
  if slope * next_slope < 0 and abs(tangent) > 3 * abs(slope):
    return 3 * slope
  return tangent


def along_path(
  points: Sequence[Sequence[float]] | np.ndarray,
  count: int,
  speed: Sequence[Sequence[float]] = LINEAR,
) -> np.ndarray:
  """Return the positions, frame by frame, of something that moves along a path.

  Args:
    points: Corners (x, y) of the path, float [n, 2] with n >= 1.
    count: Number of frames, at least 1; the first one is at the first point, the last one at the
      last point.
    speed: Speed curve: (share of the time, share of the path's length) pairs from (0, 0) to (1, 1),
      with increasing times and lengths that do not fall. Between its points it is smooth.

  Returns:
    float64 [count, 2].

  Raises:
    InputError: If a point is not a finite pair, or the speed curve has another form.
  """
  try:
    corners, curve = np.array(points, np.float64), np.array(speed, np.float64)
  except (TypeError, ValueError) as error:
    raise InputError('a path must be a list of (x, y) points') from error
  if corners.ndim != 2 or corners.shape[1] != 2 or not len(corners):
    raise InputError('a path must be a list of (x, y) points, at least one')
  if not np.isfinite(corners).all():
    raise InputError('a path must have finite (x, y) points')
  if (
    curve.ndim != 2
    or curve.shape[1] != 2
    or not np.isfinite(curve).all()
    or curve[0].tolist() != [0, 0]
    or curve[-1].tolist() != [1, 1]
    or (np.diff(curve[:, 0]) <= 0).any()
    or (np.diff(curve[:, 1]) < 0).any()
  ):
    raise InputError(
      'a speed curve must go from (0, 0) to (1, 1): times must increase, and the way must not fall'
    )
  steps = np.hypot(*np.diff(corners, axis=0).T)
  length = np.concatenate([[0.0], np.cumsum(steps)])
  time = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
  way = smoothly(curve[:, 0], curve[:, 1], time) * length[-1]
  return np.stack([np.interp(way, length, corners[:, axis]) for axis in (0, 1)], axis=-1)
