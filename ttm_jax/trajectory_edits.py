"""Edits of trajectories, by users or for augmentation.

Label maps are uint8 [T, H, W]; see `ttm_jax.trajectory`. An edit changes one object and returns a
new label map. Pixels that the object uncovers become background, since what is behind is unknown.
If objects overlap, the smaller one is on top, as in the paper's renderings (supervision draws large
masks first). Sizes are mean areas over the frames that show the object, so that the order does not
flicker within a clip. The edited object is on top of objects of equal size.

To keep what is behind, and to choose the depth order, `split` a label map into layers, one per
object, edit these, and `merge` them again. The studio (`ttm_jax.studio`) works this way:

    layers = split(ids)
    layers[1] = translate(layers[1], 1, {0: (0, 0), 15: (12, 0)}, smooth=True)
    layers[2] = hide(layers[2], 2, start=5)
    ids = merge(layers)

Values over time are given per frame or by keyframes, see `ttm_jax.keyframes`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.keyframes import (
  LINEAR,
  OverTime,
  PathOverTime,
  along_path,
  checked_range,
  over_time,
)
from ttm_jax.mask_sampling import (
  centroids,
  dilated,
  resampled,
  rotated,
  round_half_up,
  shifted,
)
from ttm_jax.trajectory import LABELS, MAX_OBJECTS, areas, check_ids
from ttm_jax.trajectory_layers import change_depth as change_depth
from ttm_jax.trajectory_layers import depth_order as depth_order
from ttm_jax.trajectory_layers import merge as merge
from ttm_jax.trajectory_layers import split as split

AXES = ('horizontal', 'vertical')


def translate(ids: np.ndarray, obj: int, path: PathOverTime, smooth: bool = False) -> np.ndarray:
  """Translate an object.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    path: Offsets (x, y) over time, in pixels, x to the right, y down; rounded to whole pixels.
      Parts that leave the image are lost.
    smooth: Whether to interpolate between keyframes smoothly.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist or `path` is invalid.
  """
  mask = _mask(ids, obj)
  offsets = round_half_up(over_time(path, len(ids), 'the path', (2,), smooth))
  return _paint(ids, obj, shifted(mask, offsets))


def follow(
  ids: np.ndarray,
  obj: int,
  points: Sequence[Sequence[float]] | np.ndarray,
  start: int = 0,
  stop: int | None = None,
  speed: Sequence[Sequence[float]] = LINEAR,
) -> np.ndarray:
  """Move an object along a path.

  The path is shifted so that it begins at the object's centroid in frame `start`. Until frame
  `stop` it replaces the motion of the centroid; the changes of the object's shape stay. Frames
  before `start` are unchanged; from `stop` on the object keeps its own motion, from its new place.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    points: Corners (x, y) of the path in pixels, [n, 2].
    start: First frame of the path; it must show the object.
    stop: Last frame of the path; by default that of the clip.
    speed: Speed curve, see `keyframes.along_path`; by default a constant speed.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist, or an argument is invalid.
  """
  mask = _mask(ids, obj)
  start, stop = checked_range(len(ids), start, stop)
  center, area = centroids(mask)
  if not area[start]:
    raise InputError(f'frame {start} does not show object {obj}; begin the path in one that does')
  place = along_path(points, stop - start + 1, speed)
  offsets = np.zeros((len(ids), 2))
  # Where the object is hidden its offset is of no use.
  offsets[start : stop + 1] = place - place[0] + center[start] - center[start : stop + 1]
  shown = np.flatnonzero(area[start : stop + 1]) + start
  offsets[stop + 1 :] = offsets[shown[-1]]
  return _paint(ids, obj, shifted(mask, round_half_up(offsets)))


def scale(ids: np.ndarray, obj: int, factors: OverTime, smooth: bool = False) -> np.ndarray:
  """Scale an object about its centroid in each frame.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    factors: Scale factors of lengths over time, above 0. The object keeps at least one pixel.
    smooth: Whether to interpolate between keyframes smoothly.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist or `factors` is invalid.
  """
  mask = _mask(ids, obj)
  factor = over_time(factors, len(ids), 'the list of factors', smooth=smooth)
  if (factor <= 0).any():
    raise InputError(f'cannot scale object {obj} by {factor.min():g}; factors must be above 0')
  center, area = centroids(mask)
  scaled = _zoomed(mask, center, factor)
  lost = (area > 0) & ~scaled.any(axis=(1, 2))
  x, y = round_half_up(center[lost]).T
  scaled[lost, y, x] = True
  return _paint(ids, obj, scaled)


def rotate(ids: np.ndarray, obj: int, degrees: OverTime, smooth: bool = False) -> np.ndarray:
  """Rotate an object about its centroid in each frame.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    degrees: Angles over time, clockwise. The nearest pixel is sampled.
    smooth: Whether to interpolate between keyframes smoothly.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist or `degrees` is invalid.
  """
  mask = _mask(ids, obj)
  angle = over_time(degrees, len(ids), 'the list of angles', smooth=smooth)
  return _paint(ids, obj, rotated(mask, centroids(mask)[0], angle))


def flip(
  ids: np.ndarray, obj: int, axis: str = 'horizontal', start: int = 0, stop: int | None = None
) -> np.ndarray:
  """Mirror an object within its bounding box, in frames `start` to `stop`.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    axis: 'horizontal' swaps left and right, 'vertical' swaps top and bottom.
    start: First frame.
    stop: Last frame; by default that of the clip.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object or a frame does not exist, or the axis is unknown.
  """
  mask = _mask(ids, obj)
  start, stop = checked_range(len(ids), start, stop)
  if axis not in AXES:
    raise InputError(f'cannot flip along "{axis}"; choose horizontal or vertical')
  mirrored = mask.copy()
  for frame in range(start, stop + 1):
    y, x = (np.flatnonzero(mask[frame].any(axis=side)) for side in (1, 0))
    if len(y):
      box = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
      mirrored[frame][box] = np.flip(mask[frame][box], 1 if axis == 'horizontal' else 0)
  return _paint(ids, obj, mirrored)


def retime(ids: np.ndarray, obj: int, times: OverTime, smooth: bool = False) -> np.ndarray:
  """Change the timing of an object's motion.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    times: Source frame over time, 0..T-1; the nearest frame is used. For example, {0: 0, T-1:
      (T-1)/2} plays at half speed, {0: T-1, T-1: 0} plays backward.
    smooth: Whether to interpolate between keyframes smoothly.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist or `times` is invalid.
  """
  mask = _mask(ids, obj)
  time = over_time(times, len(ids), 'the list of times', smooth=smooth)
  if time.min() < 0 or time.max() > len(ids) - 1:
    wrong = time.min() if time.min() < 0 else time.max()
    raise InputError(f'object {obj} has no frame {wrong:g}; frames run from 0 to {len(ids) - 1}')
  return _paint(ids, obj, mask[round_half_up(time)])


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
  _check_shown(ids, obj, from_frame, 'hold it')
  return retime(ids, obj, np.minimum(np.arange(len(ids)), from_frame))


def pin(ids: np.ndarray, obj: int, frame: int = 0) -> np.ndarray:
  """Pin an object to the scene: its mask is that of `frame` in all frames; see also `camera`.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    frame: Frame to take the mask from, 0..T-1; it must show the object.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object or the frame does not exist, or the frame does not show the object.
  """
  _check_shown(ids, obj, frame, 'pin it')
  return retime(ids, obj, np.full(len(ids), frame))


def camera(
  ids: np.ndarray,
  objects: Sequence[int],
  pan: PathOverTime | None = None,
  zoom: OverTime | None = None,
  smooth: bool = False,
) -> np.ndarray:
  """Move objects as the camera moves the scene that they stand in.

  Args:
    ids: uint8 [T, H, W].
    objects: Labels of the objects that stand still in the scene, such as pinned ones.
    pan: Shift (x, y) of the scene over time in pixels, x to the right, y down; None for no shift.
    zoom: Scale factor of the scene about the center of the image over time, above 0; None for 1.
    smooth: Whether to interpolate between keyframes smoothly.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If there is no such object, or a value over time is invalid.
  """
  if not len(objects):
    raise InputError('the camera moves no object: pin those that stand still in the scene first')
  shift = over_time({0: (0, 0)} if pan is None else pan, len(ids), 'the pan', (2,), smooth)
  factor = over_time({0: 1} if zoom is None else zoom, len(ids), 'the zoom', smooth=smooth)
  if (factor <= 0).any():
    raise InputError(f'the camera cannot zoom by {factor.min():g}; factors must be above 0')
  height, width = ids.shape[1:]
  center = np.full((len(ids), 2), [(width - 1) / 2, (height - 1) / 2])
  for obj in objects:
    ids = _paint(ids, obj, _zoomed(_mask(ids, obj), center, factor, shift))
  return ids


def hide(ids: np.ndarray, obj: int, start: int = 0, stop: int | None = None) -> np.ndarray:
  """Remove an object from frames `start` to `stop`, so that it enters or leaves the scene.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    start: First frame without the object.
    stop: Last frame without it; by default that of the clip.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object or a frame does not exist.
  """
  mask = _mask(ids, obj)
  start, stop = checked_range(len(ids), start, stop)
  mask[:start] = mask[stop + 1 :] = False
  return np.where(mask, np.uint8(0), ids)


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


def duplicate(ids: np.ndarray, obj: int, new: int, offset: Sequence[float] = (0, 0)) -> np.ndarray:
  """Add a copy of an object.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    new: Label of the copy, 1..8, of no other object.
    offset: Shift (x, y) of the copy in pixels.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the object does not exist, or `new` is taken or no label.
  """
  mask = _mask(ids, obj)
  if not 1 <= new <= MAX_OBJECTS or (ids == new).any():
    raise InputError(f'the copy cannot be object {new}; take a free number from 1 to {MAX_OBJECTS}')
  offsets = over_time({0: offset}, len(ids), 'the offset', (2,))
  return _paint(ids, new, shifted(mask, round_half_up(offsets)))


def repaint(
  ids: np.ndarray, obj: int, mask: np.ndarray, start: int, stop: int | None = None
) -> np.ndarray:
  """Replace the mask of an object in frames `start` to `stop`; the object may be new.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    mask: bool [H, W].
    start: First frame.
    stop: Last frame; by default `start`, so that one frame is repainted.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the label or a frame does not exist, or the mask has another size.
  """
  check_ids(ids)
  _check_label(obj)
  if mask.dtype != bool or mask.shape != ids.shape[1:]:
    raise InputError(
      f'the painted mask must be bool {list(ids.shape[1:])}, got {mask.dtype} {list(mask.shape)}'
    )
  start, stop = checked_range(len(ids), start, start if stop is None else stop)
  painted = ids == obj
  painted[start : stop + 1] = mask
  return _paint(ids, obj, painted)


def fit_boxes(
  ids: np.ndarray, obj: int, boxes: Mapping[int, Sequence[float]] | Sequence[Sequence[float]]
) -> np.ndarray:
  """Move and stretch an object so that its bounding box follows given ones.

  The mask of each frame is stretched from its own bounding box. Where the trajectory does not show
  the object, which may be new, the box is filled.

  Args:
    ids: uint8 [T, H, W].
    obj: Label of the object, 1..8.
    boxes: Boxes (x0, y0, x1, y1) over time in pixels, x1 and y1 exclusive; one per frame, or
      keyframes {frame: box} with linear interpolation. Parts outside of the image are lost.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the label does not exist, or a box is invalid or empty.
  """
  check_ids(ids)
  _check_label(obj)
  wanted = over_time(boxes, len(ids), f'the boxes of object {obj}', (4,))
  if (wanted[:, 2:] <= wanted[:, :2]).any():
    raise InputError(f'a box of object {obj} is empty; give x0, y0, x1, y1 with x0 < x1, y0 < y1')
  height, width = ids.shape[1:]
  mask, y, x = ids == obj, np.arange(height), np.arange(width)
  fitted = np.zeros_like(mask)
  for frame, (x0, y0, x1, y1) in enumerate(wanted):
    rows, columns = (np.flatnonzero(mask[frame].any(axis=axis)) for axis in (1, 0))
    inside = (
      (y >= round_half_up(y0)) & (y < round_half_up(y1)),
      ((x >= round_half_up(x0)) & (x < round_half_up(x1))),
    )
    if not len(rows):
      fitted[frame] = np.outer(*inside)
      continue
    # Pixel centers are at halves.
    from_y = np.floor((y + 0.5 - y0) / (y1 - y0) * (rows[-1] + 1 - rows[0])) + rows[0]
    from_x = np.floor((x + 0.5 - x0) / (x1 - x0) * (columns[-1] + 1 - columns[0])) + columns[0]
    source = mask[frame][
      np.ix_(
        np.clip(from_y, rows[0], rows[-1]).astype(int),
        np.clip(from_x, columns[0], columns[-1]).astype(int),
      )
    ]
    fitted[frame] = source & np.outer(*inside)
  return _paint(ids, obj, fitted)


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
    changed = dilated(mask, radius) if radius > 0 else ~dilated(~mask, -radius)
    changed = np.where(changed.any(axis=(1, 2), keepdims=True), changed, mask)
    changed[dropped[obj]] = False
    result[changed] = obj
  result[:1] = ids[:1]
  return result


def _zoomed(
  mask: np.ndarray, center: np.ndarray, factor: np.ndarray, shift: np.ndarray | float = 0.0
) -> np.ndarray:
  """Scale each frame about its center (x, y), float [T, 2], by float [T], and shift it [T, 2]."""
  height, width = mask.shape[1:]
  place, factor = center + shift, factor[:, None]
  rows = center[:, 1:] + (np.arange(height) - place[:, 1:]) / factor
  columns = center[:, :1] + (np.arange(width) - place[:, :1]) / factor
  return resampled(mask, round_half_up(rows), round_half_up(columns))


def _mask(ids: np.ndarray, obj: int) -> np.ndarray:
  """Return the mask of an object, bool [T, H, W]; raise InputError if it is empty."""
  check_ids(ids)
  mask = ids == obj
  if not 1 <= obj <= MAX_OBJECTS or not mask.any():
    known = ', '.join(map(str, np.unique(ids[ids > 0]))) or 'none'
    raise InputError(f'the trajectory has no object {obj} (its objects: {known})')
  return mask


def _check_label(obj: int) -> None:
  if not 1 <= obj <= MAX_OBJECTS:
    raise InputError(f'there can be no object {obj}; objects are numbered 1 to {MAX_OBJECTS}')


def _check_shown(ids: np.ndarray, obj: int, frame: int, what: str) -> None:
  """Raise InputError unless an object and a frame exist, and the frame shows the object."""
  mask = _mask(ids, obj)
  checked_range(len(ids), frame, None)
  if not mask[frame].any():
    raise InputError(f'frame {frame} does not show object {obj}; {what} from one that does')


def _mean_areas(ids: np.ndarray) -> np.ndarray:
  """Return the mean area of each label over the frames that show it: float [9], 0 if absent."""
  area = areas(ids)
  return area.sum(axis=0) / np.maximum((area > 0).sum(axis=0), 1)


def _paint(ids: np.ndarray, obj: int, mask: np.ndarray) -> np.ndarray:
  """Replace an object's masks, bool [T, H, W], behind the objects that are smaller."""
  own = ids == obj
  if np.count_nonzero(ids) == np.count_nonzero(own):  # There is nothing else.
    return mask * np.uint8(obj)
  others = np.where(own, np.uint8(0), ids)
  below = _mean_areas(others) >= _mean_areas(mask.astype(np.uint8))[1]
  below[0] = True
  return np.where(mask & below[others], np.uint8(obj), others)
