"""Label maps between annotated frames.

SA-V annotates every fourth frame. Repeating the nearest annotation would teach a model that objects
move in jerks, so shapes are interpolated instead: the signed distances to the object's edge in the
two annotations around a frame are each shifted so that their centres of mass meet on the straight
line between them, then mixed by time; the object is where the mix is positive. (Shape-based
interpolation after Raya and Udupa, IEEE TMI 9(1), 1990, with the motion of the centre taken out.)
On an annotated frame this gives the annotation itself, to the pixel.
"""

import numpy as np


def between(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
  """The label map at `share` of the way from one to the other.

  An object that only one of the two shows is taken as it is there, from whichever is nearer. Where
  objects overlap, one of less than half the area lies on top (a ball before a man); of two alike,
  the one that lies deeper under the pixel wins (cups side by side).

  Args:
    before, after: uint8 [H, W].
    share: 0 to 1.
  """
  if share <= 0:
    return before
  if share >= 1:
    return after
  result, depth = np.zeros_like(before), np.zeros(before.shape)
  owner = np.full(before.shape, np.inf)  # The area of who has a pixel.
  areas = np.bincount(before.ravel(), minlength=256) + np.bincount(after.ravel(), minlength=256)
  for label in np.argsort(-areas, kind='stable'):
    if label and areas[label]:
      start, end = before == label, after == label
      part = _around(start, end)
      mixed = _mixed(start[part], end[part], share)
      wins = (mixed > 0) & ((mixed > depth[part]) | (owner[part] > 2 * areas[label]))
      result[part][wins], depth[part][wins], owner[part][wins] = label, mixed[wins], areas[label]
  return result


def _around(start: np.ndarray, end: np.ndarray) -> tuple[slice, slice]:
  """The part of the picture that the object can be seen in on its way."""
  ranges = []
  for axis in (1, 0):
    places = np.flatnonzero((start | end).any(axis))
    # Its centre stays within; a shape that changes may reach beyond by the half of its width.
    margin = (places[-1] - places[0]) // 2 + 2
    ranges.append(slice(max(0, places[0] - margin), places[-1] + margin + 1))
  return ranges[0], ranges[1]


def _mixed(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
  """Signed distance to the edge of the shape in between, positive inside: float [H, W]."""
  if not before.any() or not after.any():
    return _signed_distance(before if share < 0.5 else after)
  from scipy import ndimage

  start, end = np.array(ndimage.center_of_mass(before)), np.array(ndimage.center_of_mass(after))
  way = end - start
  return (1 - share) * _shifted(before, way * share) + share * _shifted(after, -way * (1 - share))


def _shifted(mask: np.ndarray, by: np.ndarray) -> np.ndarray:
  from scipy import ndimage

  # Beyond the border of the picture the distance goes on as at the border.
  return ndimage.shift(_signed_distance(mask), by, order=1, mode='nearest')


def _signed_distance(mask: np.ndarray) -> np.ndarray:
  """Distance to the edge between pixels, positive inside: +-0.5 on either side of it."""
  if not mask.any():
    return np.full(mask.shape, -float(max(mask.shape)))
  if mask.all():
    return np.full(mask.shape, float(max(mask.shape)))
  from scipy import ndimage

  inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
  return np.where(mask, inside - 0.5, 0.5 - outside)
