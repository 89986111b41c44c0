"""Do the objects of a label map move as another map shows, or as a word says?

Label maps are uint8 [T, H, W], 0 the background, 1..8 the objects. Positions are (y, x) in pixels,
y growing downwards.
"""

import numpy as np

from ttm_jax.errors import InputError, nearest
from ttm_jax.scenes.captions import MOTIONS

DIRECTIONAL = ('left', 'right', 'up', 'down')

MIN_MOVE = 0.05  # Of the frame's side: below it a displacement counts as none.
MAX_REST = 0.08  # Of the frame's side: an object at rest stays nearer than this to its start.
# Of the square root of its area: turning about a point within it, a crescent moves its centroid by
# 0.75, while a circle walked by a small object leads farther away.
MAX_SPIN = 0.8
GROWTH = 1.2  # Ratio of last to first area.
REST_GROWTH = (0.7, 1.4)
# A straight path has a winding angle of 180 degrees about its own mean, a half circle 245, a full
# one 360; a line walked to and fro may reach 360 by jitter alone, but is not round.
MIN_WINDING = np.deg2rad(225)
MIN_ROUNDNESS = 0.3


def object_iou(pred: np.ndarray, truth: np.ndarray, skip_first: int = 1) -> dict[int, float]:
  """Intersection over union of each object, averaged over the frames in which truth shows it.

  Each such frame weighs the same however small the object is in it. Frames in which truth does
  not show the object do not count, even if pred shows it there.

  Args:
    pred, truth: uint8 [T, H, W].
    skip_first: leading frames left out; the first is given to the model.

  Returns:
    Object id -> IoU in 0..1, for the objects that truth shows in a counted frame.
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
  """Mean of `object_iou` over the objects; NaN where truth shows none."""
  values = list(object_iou(pred, truth, skip_first).values())
  return float(np.mean(values)) if values else float('nan')


def centroids(ids: np.ndarray, obj: int) -> np.ndarray:
  """Mean position (y, x) of an object's pixels in each frame.

  Returns:
    float64 [T, 2], pixel centres at whole numbers; NaN in frames without the object.
  """
  mask = _maps(ids) == obj
  area = mask.sum((1, 2))
  y = mask.sum(2) @ np.arange(mask.shape[1])
  x = mask.sum(1) @ np.arange(mask.shape[2])
  sums = np.stack([y, x], axis=1).astype(float)
  return np.divide(sums, area[:, None], out=np.full(sums.shape, np.nan), where=area[:, None] > 0)


def goes_as_told(ids: np.ndarray, obj: int, motion: str) -> bool | None:
  """Whether an object of a label map moves as the name of a motion says.

  It must be visible in frame 0 and again in the last quarter of the frames; start and end are
  frame 0 and the last frame in which it is visible. Then

  * left, right, up, down: it ends at the right side of its start, by more than 5 % of the frame's
    side along that axis, and by more pixels than along the other axis;
  * grow, shrink: its area ends above 1.2 times, below 1/1.2 of what it was;
  * stay: it never lies 8 % of the frame's side or more away from its start along either axis, and
    its area ends at 0.7 to 1.4 times what it was;
  * spin: the same, but with 0.8 times the square root of its first area for the 8 %, since the
    centroid of a lopsided object goes round too; whether it turns is not looked at;
  * bounce: its height above ground rises and falls again, or falls and rises, each by more than
    5 % of the frame's height (so does what goes in a circle);
  * circle: it winds by at least 225 degrees about the mean of its path (a half circle does by
    245), and the path is round: its spread across is at least 0.3 of that along its main axis,
    and along the main axis more than 5 % of the shorter side of the frame;
  * follow: None, as it depends on the other object.

  Args:
    ids: uint8 [T, H, W].
    obj: the object's id.
    motion: one of `scene_words.MOTIONS`.
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


def _goes(move: np.ndarray, side: np.ndarray, direction: str) -> bool:
  axis = 0 if direction in ('up', 'down') else 1
  along = move[axis] if direction in ('down', 'right') else -move[axis]
  return bool(along > MIN_MOVE * side[axis] and along > abs(move[1 - axis]))


def _reverses(heights: np.ndarray, least: float) -> bool:
  """Whether a sequence goes one way and then back, each by more than `least`."""
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
