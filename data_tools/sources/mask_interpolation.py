"""Interpolate label maps between annotated frames.

SA-V annotates every fourth frame. Repeating the nearest annotation would teach a model jerky
motion, so object shapes are interpolated. For each of the two annotations around a frame, compute
the signed distance to the object boundary. Shift both distance maps so that their centers of mass
meet on the straight line between them, then average them with weights linear in time. The object
is where the result is positive. This is the shape-based interpolation of Raya and Udupa (IEEE TMI
9(1), 1990), with the motion of the center compensated. On an annotated frame the result equals the
annotation.
"""

import numpy as np


def between(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
  """Return the label map uint8 [H, W] at a fraction of the time between two label maps.

  An object that only one of the two shows is copied from there if that one is nearer in time. Where
  objects overlap, an object of less than half the other's area is on top (a ball in front of a
  man). For objects of similar area, the larger signed distance wins (cups side by side).

  Args:
    before, after: label maps uint8 [H, W].
    share: fraction in [0, 1]; 0 returns `before`, 1 returns `after`.
  """
  if share <= 0:
    return before
  if share >= 1:
    return after
  result, depth = np.zeros_like(before), np.zeros(before.shape)
  owner = np.full(before.shape, np.inf)  # Area of the object that owns each pixel.
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
  """Return the slices of a region that contains the interpolated object."""
  ranges = []
  for axis in (1, 0):
    places = np.flatnonzero((start | end).any(axis))
    # The center stays inside the union of both masks. A changing shape may extend beyond it by
    # half of its width.
    margin = (places[-1] - places[0]) // 2 + 2
    ranges.append(slice(max(0, places[0] - margin), places[-1] + margin + 1))
  return ranges[0], ranges[1]


def _mixed(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
  """Return the signed distance to the interpolated boundary, positive inside: float [H, W]."""
  if not before.any() or not after.any():
    return _signed_distance(before if share < 0.5 else after)
  from scipy import ndimage

  start, end = np.array(ndimage.center_of_mass(before)), np.array(ndimage.center_of_mass(after))
  way = end - start
  return (1 - share) * _shifted(before, way * share) + share * _shifted(after, -way * (1 - share))


def _shifted(mask: np.ndarray, by: np.ndarray) -> np.ndarray:
  from scipy import ndimage

  # Beyond the image border, repeat the distance at the border.
  return ndimage.shift(_signed_distance(mask), by, order=1, mode='nearest')


def _signed_distance(mask: np.ndarray) -> np.ndarray:
  """Return the signed distance to the mask boundary, in pixels, positive inside.

  The boundary is between pixels, so the pixels next to it have a distance of +-0.5.
  """
  if not mask.any():
    return np.full(mask.shape, -float(max(mask.shape)))
  if mask.all():
    return np.full(mask.shape, float(max(mask.shape)))
  from scipy import ndimage

  inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
  return np.where(mask, inside - 0.5, 0.5 - outside)
