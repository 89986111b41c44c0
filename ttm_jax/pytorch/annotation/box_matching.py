"""Match detected boxes to the masks of a label map.

Match greedily by the IoU of the detected box and the tight box of a mask, highest first. A mask is
used at most once.
"""

from collections.abc import Mapping

import numpy as np

from ttm_jax.inference.position_words import box_iou

LEAST_IOU = 0.5


def masks_of(
  boxes: Mapping[int, np.ndarray], ids: np.ndarray, least_iou: float = LEAST_IOU
) -> dict[int, int]:
  """Return the label of each object that matches a mask.

  Args:
    boxes: detected boxes (x0, y0, x1, y1) in pixels, by object id.
    ids: label map uint8 [H, W].
    least_iou: minimum IoU of a match.
  """
  tight = tight_boxes(ids)
  pairs = sorted(
    ((box_iou(box, tight[label]), obj, label) for obj, box in boxes.items() for label in tight),
    key=lambda pair: -pair[0],
  )
  found: dict[int, int] = {}
  for iou, obj, label in pairs:
    if iou >= least_iou and obj not in found and label not in found.values():
      found[obj] = label
  return found


def tight_boxes(ids: np.ndarray) -> dict[int, np.ndarray]:
  """Return the tight box of each label of a label map uint8 [H, W], without background.

  A box is float [4], (x0, y0, x1, y1) in pixels; x1 and y1 are exclusive.
  """
  boxes = {}
  for label in np.unique(ids):
    if label:
      y, x = np.nonzero(ids == label)
      boxes[int(label)] = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)
  return boxes
