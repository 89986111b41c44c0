"""Binds detected objects to masks that a source brought along, such as the masklets of SA-V.

Each object goes to the mask of frame 0 whose tight box overlaps its detected box most, best pairs
first, no mask twice.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_tools.drafts import Draft, Reject, Rejected, attempt
from data_tools.steps.positions import box_iou

LEAST_IOU = 0.5


@dataclasses.dataclass(frozen=True)
class MatchSettings:
  """What the step is built of.

  Attributes:
    least_iou: of a detected box and the box of its mask.
  """

  least_iou: float = LEAST_IOU

  def build(self) -> 'Match':
    return Match(self.least_iou)


class Match:
  """Renumbers the label maps of drafts so that mask l is that of object l; the rest is cleared."""

  def __init__(self, least_iou: float = LEAST_IOU):
    self._least = least_iou

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    return [attempt(self._matched, draft, draft) for draft in drafts]

  def _matched(self, draft: Draft) -> Draft:
    if draft.ids is None:
      raise Reject('no masks', 'match needs a source with masks; use segment without')
    tight = tight_boxes(draft.ids[0])
    pairs = sorted(
      (
        (box_iou(box, tight[label]), obj, label)
        for obj, box in draft.boxes.items()
        for label in tight
      ),
      key=lambda pair: -pair[0],
    )
    table = np.zeros(256, np.uint8)
    matched: set[int] = set()
    for iou, obj, label in pairs:
      if iou >= self._least and obj not in matched and not table[label]:
        table[label] = obj
        matched.add(obj)
    if lost := [draft.names[obj] for obj in draft.boxes if obj not in matched]:
      raise Reject('no mask fits a detected object', ', '.join(lost))
    return dataclasses.replace(draft, ids=table[draft.ids])


def tight_boxes(ids: np.ndarray) -> dict[int, np.ndarray]:
  """The tight box x0, y0, x1, y1 (ends excluded) of each label of uint8 [H, W]: float [4]."""
  boxes = {}
  for label in np.unique(ids):
    if label:
      y, x = np.nonzero(ids == label)
      boxes[int(label)] = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)
  return boxes
