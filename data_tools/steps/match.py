"""Match detected objects to masks from the source, such as the masklets of SA-V.

See `ttm_jax.pytorch.annotation.box_matching`; boxes and masks are those of frame 0.
"""

import dataclasses
from collections.abc import Sequence

from data_tools.drafts import Draft, Rejected, attempt
from ttm_jax import trajectory
from ttm_jax.pytorch.annotation.box_matching import LEAST_IOU, masks_of
from ttm_jax.pytorch.annotation.rejection import Reject


@dataclasses.dataclass(frozen=True)
class Match:
  """Renumber the label maps of drafts so that label l is object l; clear all other labels.

  Attributes:
    least_iou: minimum IoU of a detected box and the box of its mask.
  """

  least_iou: float = LEAST_IOU

  def build(self) -> 'Match':
    """Return the step: it has no model to load, so it is its own settings."""
    return self

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    return [attempt(self._matched, draft, draft) for draft in drafts]

  def _matched(self, draft: Draft) -> Draft:
    if draft.ids is None:
      raise Reject('no masks', 'give a source with masks, or --sam')
    found = masks_of(draft.boxes, draft.ids[0], self.least_iou)
    if lost := [draft.names[obj] for obj in draft.boxes if obj not in found]:
      raise Reject('no mask fits a detected object', ', '.join(lost))
    labels = {label: obj for obj, label in found.items()}
    return dataclasses.replace(draft, ids=trajectory.relabel(draft.ids, labels))
