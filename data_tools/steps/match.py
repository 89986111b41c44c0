"""Binds detected objects to masks that a source brought along, such as the masklets of SA-V.

Each object goes to the mask of frame 0 whose tight box overlaps its detected box most, best pairs
first, no mask twice.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_tools.drafts import Draft, Reject, Rejected, attempt
from ttm_jax.inference.position_words import box_iou

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
    found = masks_of(draft.boxes, draft.ids[0], self._least)
    if lost := [draft.names[obj] for obj in draft.boxes if obj not in found]:
      raise Reject('no mask fits a detected object', ', '.join(lost))
    table = np.zeros(256, np.uint8)
    table[list(found.values())] = list(found)
    return dataclasses.replace(draft, ids=table[draft.ids])


def masks_of(
  boxes: Mapping[int, np.ndarray], ids: np.ndarray, least_iou: float = LEAST_IOU
) -> dict[int, int]:
  """The label of uint8 [H, W] that each object has, for those that have one."""
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
  """The tight box x0, y0, x1, y1 (ends excluded) of each label of uint8 [H, W]: float [4]."""
  boxes = {}
  for label in np.unique(ids):
    if label:
      y, x = np.nonzero(ids == label)
      boxes[int(label)] = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)
  return boxes
