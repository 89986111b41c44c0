"""Match detected objects to masks from the source, such as the masklets of SA-V.

Match greedily by the IoU of the detected box and the tight box of a mask in frame 0, highest first.
A mask is used at most once.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_tools.drafts import Draft, Reject, Rejected, attempt
from ttm_jax.inference.position_words import box_iou

LEAST_IOU = 0.5


@dataclasses.dataclass(frozen=True)
class MatchSettings:
  """Settings of the match step.

  Attributes:
    least_iou: minimum IoU of a detected box and the box of its mask.
  """

  least_iou: float = LEAST_IOU

  def build(self) -> 'Match':
    """Return the step."""
    return Match(self.least_iou)


class Match:
  """Renumber the label maps of drafts so that label l is object l; clear all other labels."""

  def __init__(self, least_iou: float = LEAST_IOU):
    self._least = least_iou

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    return [attempt(self._matched, draft, draft) for draft in drafts]

  def _matched(self, draft: Draft) -> Draft:
    if draft.ids is None:
      raise Reject('no masks', 'match needs a source with masks; use segment without')
    found = masks_of(draft.boxes, draft.ids[0], self._least)
    if lost := [draft.names[obj] for obj in draft.boxes if obj not in found]:
      raise Reject('no mask fits a detected object', ', '.join(lost))
    table = np.zeros(256, np.uint8)
    table[list(found.values())] = list(found)
    return dataclasses.replace(draft, ids=table[draft.ids])


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
