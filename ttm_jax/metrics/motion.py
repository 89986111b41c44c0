"""Trajectory metrics: IoU with a ground-truth label map, and agreement with a prompted motion.

Label maps are uint8 [T, H, W], with 0 for the background and 1..8 for objects. Positions are (y, x)
in pixels, and y increases downward.
"""

from collections.abc import Sequence

import numpy as np

from ttm_jax.errors import InputError, nearest
from ttm_jax.scenes.captions import MOTIONS, motion_of

DIRECTIONAL = ('left', 'right', 'up', 'down')

MIN_MOVE = 0.05  # Minimum displacement that counts, as a fraction of the frame's side.
MAX_REST = 0.08  # Displacement limit of an object at rest, as a fraction of the frame's side.
# Displacement limit of a spinning object, as a multiple of the square root of its area. A crescent
# that turns about a point inside it moves its centroid by 0.75; a small object on a circular path
# moves farther.
MAX_SPIN = 0.8
GROWTH = 1.2  # Minimum ratio of last to first area of a growing object.
REST_GROWTH = (0.7, 1.4)
# The winding angle about the mean of the path is 180 degrees for a line, 245 for a half circle and
# 360 for a full circle. Jitter on a back-and-forth line can reach 360, but that path is not round.
MIN_WINDING = np.deg2rad(225)
MIN_ROUNDNESS = 0.3


def object_iou(pred: np.ndarray, truth: np.ndarray, skip_first: int = 1) -> dict[int, float]:
  """Return the IoU of each object, averaged over the frames in which `truth` contains it.

  Each such frame has equal weight, for any size of the object. Other frames do not count, even if
  `pred` contains the object there.

  Args:
    pred: uint8 [T, H, W], the generated label map.
    truth: uint8 [T, H, W], the label map to compare with.
    skip_first: number of leading frames to skip; by default the first, which is a model input.

  Returns:
    Object id -> IoU in 0..1, for each object that `truth` contains in a counted frame.

  Raises:
    InputError: the maps are not uint8 [T, H, W] of one shape.
  """
  pred, truth = _maps(pred), _maps(truth)
  if pred.shape != truth.shape:
    raise InputError(f'label maps to compare must have one shape: {pred.shape}, {truth.shape}')
  pred, truth = pred[skip_first:], truth[skip_first:]
  found = {}
  for obj in np.unique(truth[truth > 0]).tolist():
    p, t = pred == obj, truth == obj
    shown = t.any((1, 2))
    both, either = (p & t).sum((1, 2))[shown], (p | t).sum((1, 2))[shown]
    found[obj] = float(np.mean(both / either))
  return found


def mean_iou(pred: np.ndarray, truth: np.ndarray, skip_first: int = 1) -> float:
  """Return the mean of `object_iou` over the objects, 0..1; NaN if `truth` has no object."""
  values = list(object_iou(pred, truth, skip_first).values())
  return float(np.mean(values)) if values else float('nan')


def centroids(ids: np.ndarray, obj: int) -> np.ndarray:
  """Return the mean position (y, x) of an object's pixels in each frame.

  Args:
    ids: uint8 [T, H, W].
    obj: object id.

  Returns:
    float64 [T, 2] in pixels, with pixel centers at integers; NaN in frames without the object.
  """
  mask = _maps(ids) == obj
  area = mask.sum((1, 2))
  y = mask.sum(2) @ np.arange(mask.shape[1])
  x = mask.sum(1) @ np.arange(mask.shape[2])
  sums = np.stack([y, x], axis=1).astype(float)
  return np.divide(sums, area[:, None], out=np.full(sums.shape, np.nan), where=area[:, None] > 0)


def moves_as_prompted(ids: np.ndarray, obj: int, motion: str) -> bool | None:
  """Return whether an object of a label map performs a named motion.

  The object must be visible in frame 0 and again in the last quarter of the frames, otherwise the
  result is False. The start is frame 0; the end is the last frame in which the object is visible.

  * left, right, up, down: the displacement from start to end has that direction. It exceeds 5 % of
    the frame's side along that axis, and the displacement in pixels along the other axis.
  * grow, shrink: the end area is above 1.2 times the start area, or below 1/1.2 of it.
  * stay: along both axes, the object is always nearer to its start than 8 % of the frame's side,
    and the end area is 0.7 to 1.4 times the start area.
  * spin: as for stay, but the limit is 0.8 times the square root of the start area, since the
    centroid of an asymmetric object moves as it turns. The rotation itself is not checked.
  * bounce: the vertical position changes by more than 5 % of the frame's height and then back by
    as much. A circular path satisfies this too.
  * circle: the path winds by at least 225 degrees about its mean (a half circle reaches 245). Its
    spread along the main axis exceeds 5 % of the shorter side of the frame, and the spread across
    is at least 0.3 of that.
  * follow: not checked, since it depends on another object.

  Args:
    ids: uint8 [T, H, W].
    obj: object id.
    motion: a name in `scenes.captions.MOTIONS`.

  Returns:
    Whether the object performs the motion; None for `follow`.

  Raises:
    InputError: the motion is unknown, or `ids` is not uint8 [T, H, W].
  """
  if motion not in MOTIONS:
    raise InputError(
      f'unknown motion "{motion}"{nearest(motion, MOTIONS)}; known are {", ".join(MOTIONS)}'
    )
  if motion == 'follow':
    return None
  path = centroids(ids, obj)
  seen = np.flatnonzero(~np.isnan(path[:, 0]))
  if not seen.size or seen[0] != 0 or seen[-1] < int(0.75 * len(path)):
    return False
  path = path[seen]
  side = np.array(ids.shape[1:], float)
  if motion in DIRECTIONAL:
    return _goes(path[-1] - path[0], side, motion)
  first, last = ((ids[i] == obj).sum() for i in seen[[0, -1]])
  ratio = float(last / first)
  if motion == 'grow':
    return ratio > GROWTH
  if motion == 'shrink':
    return ratio < 1 / GROWTH
  if motion == 'bounce':
    return _reverses(path[:, 0], MIN_MOVE * side[0])
  if motion == 'circle':
    return _circles(path, MIN_MOVE * side.min())
  limit = MAX_SPIN * np.sqrt(first) if motion == 'spin' else MAX_REST * side
  rests = (np.abs(path - path[0]) < limit).all()
  return bool(rests and REST_GROWTH[0] <= ratio <= REST_GROWTH[1])


def judged_motions(prompts: Sequence[str], ids: np.ndarray) -> list[tuple[str, bool]]:
  """Return what the prompts of objects tell them to do, and whether they do it.

  Args:
    prompts: the prompt of each object, of object 1 first, in words of procedural scenes.
    ids: uint8 [T, H, W], a label map.

  Returns:
    Motion and agreement of each object with a motion that can be checked; see `moves_as_prompted`.

  Raises:
    InputError: `ids` is not uint8 [T, H, W].
  """
  judged = []
  for obj, prompt in enumerate(prompts, 1):
    motion = motion_of(prompt)
    agrees = None if motion is None else moves_as_prompted(ids, obj, motion)
    if motion is not None and agrees is not None:
      judged.append((motion, agrees))
  return judged


def _goes(move: np.ndarray, side: np.ndarray, direction: str) -> bool:
  axis = 0 if direction in ('up', 'down') else 1
  along = move[axis] if direction in ('down', 'right') else -move[axis]
  return bool(along > MIN_MOVE * side[axis] and along > abs(move[1 - axis]))


def _reverses(heights: np.ndarray, least: float) -> bool:
  """Return whether a sequence moves one way and then back, each by more than `least`."""
  for sign in (1, -1):
    h = sign * heights
    rise = h - np.minimum.accumulate(h)
    fall = h - np.minimum.accumulate(h[::-1])[::-1]
    if ((rise > least) & (fall > least)).any():
      return True
  return False


def _circles(path: np.ndarray, least: float) -> bool:
  spokes = path - path.mean(0)
  across, along = np.sqrt(np.linalg.eigvalsh(spokes.T @ spokes / len(path)).clip(0))
  if along <= least or across < MIN_ROUNDNESS * along:
    return False
  angle = np.unwrap(np.arctan2(spokes[:, 0], spokes[:, 1]))
  return bool(abs(angle[-1] - angle[0]) >= MIN_WINDING)


def _maps(ids: np.ndarray) -> np.ndarray:
  ids = np.asarray(ids)
  if ids.dtype != np.uint8 or ids.ndim != 3 or not ids.size:
    raise InputError(f'label maps must be uint8 [T, H, W], got {ids.dtype} {ids.shape}')
  return ids
