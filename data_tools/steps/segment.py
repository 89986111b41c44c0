"""Track the detected objects through the clip with SAM 2, and write their label maps.

    python -m data_tools.steps.segment --model facebook/sam2.1-hiera-large --video dog.mp4 \\
        --box "10,20,200,180" --out masks

Each object is tracked from its box in frame 0. For the backends see
`ttm_jax.pytorch.annotation.sam2`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_tools.drafts import Draft, Rejected, attempt
from data_tools.steps import command
from ttm_jax import trajectory
from ttm_jax.errors import InputError, front_door
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.rejection import Reject
from ttm_jax.pytorch.annotation.sam2 import BACKENDS, Tracker, tracker

MIN_SEEN = 0.5  # A track that is visible in a smaller fraction of the frames counts as lost.


@dataclasses.dataclass(frozen=True)
class SegmentSettings:
  """Settings of the segment step.

  Attributes:
    weights: the SAM 2 model; for the package `sam2` with a .yaml configuration, see `sam2_package`.
    backend: a name of BACKENDS, or `auto`.
    min_seen: minimum fraction of frames in which an object must be visible.
  """

  weights: ModelSource
  backend: str = 'auto'
  min_seen: float = MIN_SEEN

  def build(self) -> 'Segment':
    """Load the model and return the step."""
    return Segment(tracker(self.weights, self.backend), self.min_seen)


class Segment:
  """Fill in the label maps of drafts that have boxes; reject drafts with a lost track."""

  def __init__(self, track: Tracker, min_seen: float = MIN_SEEN):
    self._track, self._min_seen = track, min_seen

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    return [attempt(self._segmented, draft, draft) for draft in drafts]

  def _segmented(self, draft: Draft) -> Draft:
    if not draft.boxes:
      raise Reject('no object is named', 'segment needs boxes, as from detect')
    objects = list(draft.boxes)
    logits = self._track(draft.video, np.stack([draft.boxes[i] for i in objects]))
    labels = trajectory.from_logits(logits)
    ids = trajectory.relabel(labels, dict(enumerate(objects, 1)))
    for obj in objects:
      shown = (ids == obj).any((1, 2))
      if not shown[0] or shown.mean() < self._min_seen:
        where = 'not in frame 0' if not shown[0] else f'in {shown.mean():.0%} of the frames'
        raise Reject('track lost', f'{draft.names.get(obj, obj)}: {where}')
    return dataclasses.replace(draft, ids=ids)


def main(argv: list[str] | None = None) -> None:
  parser = command.parser('segment', __doc__)
  add = parser.add_argument
  add('--sam_backend', default='auto', choices=['auto', *BACKENDS], help='default auto')
  add('--video', required=True, help='video or image')
  add(
    '--box',
    required=True,
    action='append',
    help='x0,y0,x1,y1 in pixels of frame 0; repeat for each object',
  )
  add('--out', required=True, help='folder for the label maps, one PNG per frame')
  args = parser.parse_args(argv)
  with front_door():
    boxes = {i: parse_box(text) for i, text in enumerate(args.box, 1)}
    source = ModelSource.from_flags(args, args.model)
    (outcome,) = SegmentSettings(source, args.sam_backend, min_seen=0).build()(
      [command.still(args.video, boxes=boxes)]
    )
    if isinstance(outcome, Rejected):
      raise InputError(f'{args.video}: {outcome.reason} ({outcome.detail}); try another box')
    assert outcome.ids is not None
    trajectory.write_folder(args.out, outcome.ids)
    print(args.out)


def parse_box(text: str) -> np.ndarray:
  """Parse 'x0,y0,x1,y1' in pixels, such as '10,20,200,180', into float [4].

  Raises:
    InputError: if the text is not four numbers with x0 < x1 and y0 < y1.
  """
  try:
    box = np.array([float(part) for part in text.split(',')])
  except ValueError:
    box = np.zeros(0)
  if box.shape != (4,) or box[0] >= box[2] or box[1] >= box[3]:
    raise InputError(f'--box {text}: write x0,y0,x1,y1, as in 10,20,200,180')
  return box


if __name__ == '__main__':
  main()
