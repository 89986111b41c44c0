"""Overlap of bounding boxes, and clips grouped by their number of objects."""

from collections.abc import Sequence

import numpy as np

from ttm_jax.metrics.base import Sample
from ttm_jax.trajectory import boxes

MOST_OBJECTS = 5  # Of a group of its own, as in MagicBench (Li et al. 2025, arXiv 2503.16421).


def box_iou(pred: np.ndarray, truth: np.ndarray) -> float:
  """Return the mean IoU of the bounding boxes of objects.

  It is averaged over the frames in which `truth` shows the object, then over objects. An object
  that `pred` lacks has an IoU of 0 there.

  Args:
    pred, truth: label maps uint8 [T, H, W].

  Returns:
    0..1; NaN if `truth` shows no object.
  """
  a, b = boxes(pred).astype(float), boxes(truth).astype(float)  # [T, L, 4]
  low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
  both = (high - low).clip(0).prod(-1)
  either = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both
  shown = b[..., 2] > 0
  iou = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
  values = [iou[shown[:, obj], obj].mean() for obj in np.flatnonzero(shown.any(0))]
  return float(np.mean(values)) if values else float('nan')


def by_number_of_objects(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
  """Group samples by the number of objects in frame 0 of their target trajectory.

  Args:
    samples: the samples, in the order of the rows of a metric.

  Returns:
    Indices int [n] of the samples by group: '1' to '5', and '>5'. Empty groups are left out, and
    so are samples without objects.
  """
  counts = np.array([np.unique(s.target[0][s.target[0] > 0]).size for s in samples], int)
  groups = {str(n): np.flatnonzero(counts == n) for n in range(1, MOST_OBJECTS + 1)}
  groups[f'>{MOST_OBJECTS}'] = np.flatnonzero(counts > MOST_OBJECTS)
  return {name: indices for name, indices in groups.items() if indices.size}
