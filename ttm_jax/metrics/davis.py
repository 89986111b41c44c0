"""Region similarity J and boundary accuracy F of masks, by the definition of the DAVIS benchmark.

Source: Perazzi et al. 2016, section 5.1, and the evaluation code of DAVIS 2017. J is the IoU. F is
the harmonic mean of precision and recall of boundary pixels: a boundary pixel is right if the other
boundary is within a disk of 0.8 % of the image diagonal.
"""

import math

import numpy as np

from ttm_jax.errors import InputError

TOLERANCE = 0.008  # Radius of the disk as a fraction of the image diagonal.


def region_similarity(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Return J of each frame: the IoU of two masks, 1 if both are empty.

  Args:
    pred, truth: bool [T, H, W], the masks of one object.

  Returns:
    float64 [T], 0..1.

  Raises:
    InputError: the masks are not bool [T, H, W] of one shape.
  """
  pred, truth = _pair(pred, truth)
  both, either = (pred & truth).sum((1, 2)), (pred | truth).sum((1, 2))
  return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def boundary_accuracy(
  pred: np.ndarray, truth: np.ndarray, tolerance: float = TOLERANCE
) -> np.ndarray:
  """Return F of each frame.

  An empty mask has no boundary, nor has one that fills the frame: F is 1 if neither mask has one,
  and 0 if only one has.

  Args:
    pred, truth: bool [T, H, W], the masks of one object.
    tolerance: radius as a fraction of the image diagonal; rounded up to whole pixels.

  Returns:
    float64 [T], 0..1.

  Raises:
    InputError: the masks are not bool [T, H, W] of one shape.
  """
  pred, truth = _pair(pred, truth)
  disk = _disk(math.ceil(tolerance * math.hypot(*pred.shape[1:])))
  return np.array([_f_measure(p, t, disk) for p, t in zip(pred, truth, strict=True)])


def boundary(mask: np.ndarray) -> np.ndarray:
  """Return the boundary pixels of a mask.

  A pixel is on the boundary if its right, lower or lower right neighbor differs from it. The
  boundary is therefore one pixel wide; it has no pixel where the mask meets the image's edge.

  Args:
    mask: bool [H, W].

  Returns:
    bool [H, W].
  """
  padded = np.pad(mask, ((0, 1), (0, 1)), mode='edge')
  here = padded[:-1, :-1]
  return (here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:])


def _f_measure(pred: np.ndarray, truth: np.ndarray, disk: np.ndarray) -> float:
  edge_pred, edge_truth = boundary(pred), boundary(truth)
  of_pred, of_truth = edge_pred.sum(), edge_truth.sum()
  if not of_pred or not of_truth:
    return 1.0 if of_pred == of_truth else 0.0
  precision = (edge_pred & _dilated(edge_truth, disk)).sum() / of_pred
  recall = (edge_truth & _dilated(edge_pred, disk)).sum() / of_truth
  total = precision + recall
  return float(2 * precision * recall / total) if total else 0.0


def _dilated(edge: np.ndarray, disk: np.ndarray) -> np.ndarray:
  """Return bool [H, W]: pixels within the disk [n, 2] around a pixel of bool [H, W]."""
  radius = int(disk.max())
  result = np.zeros(np.add(edge.shape, 2 * radius), bool)
  # Boundaries are sparse, so their pixels are moved instead of the image.
  y, x = (np.argwhere(edge)[:, None] + disk + radius).reshape(-1, 2).T
  result[y, x] = True
  height, width = edge.shape
  return result[radius : radius + height, radius : radius + width]


def _disk(radius: int) -> np.ndarray:
  """Return the offsets int [n, 2] of pixels whose distance is at most `radius`."""
  span = np.arange(-radius, radius + 1)
  y, x = np.meshgrid(span, span, indexing='ij')
  inside = y**2 + x**2 <= radius**2
  return np.stack([y[inside], x[inside]], axis=1)


def _pair(pred: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  pred, truth = np.asarray(pred), np.asarray(truth)
  for mask in (pred, truth):
    if mask.dtype != bool or mask.ndim != 3 or mask.shape != pred.shape:
      raise InputError(
        f'masks to compare must be bool [T, H, W] of one shape, got {pred.dtype} {pred.shape} and'
        f' {truth.dtype} {truth.shape}'
      )
  return pred, truth
