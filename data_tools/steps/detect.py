"""Detect the boxes of the named objects in frame 0 with Grounding DINO (transformers).

    python -m data_tools.steps.detect --model IDEA-Research/grounding-dino-base \\
        --image photo.png --name "left dog" --name ball
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from data_tools.drafts import Draft, Rejected, attempt, remaining
from data_tools.steps import command
from ttm_jax.errors import front_door
from ttm_jax.inference import position_words
from ttm_jax.pytorch.annotation.grounding_dino import THRESHOLD, Found, GroundingDino
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.rejection import Reject


@dataclasses.dataclass(frozen=True)
class DetectSettings:
  """Settings of the detect step.

  Attributes:
    weights: the Grounding DINO model.
    threshold: minimum score of a box.
  """

  weights: ModelSource
  threshold: float = THRESHOLD

  def build(self) -> 'Detect':
    """Load the model and return the step."""
    return Detect(GroundingDino(self.weights, self.threshold))


class Detect:
  """Fill in the boxes of the named objects of drafts that have no boxes."""

  def __init__(self, detector: GroundingDino):
    """Args:
    detector: a `GroundingDino`, or a callable with the same signature.
    """
    self._detector = detector

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    outcomes = [attempt(_named, draft, draft) for draft in drafts]
    asked = [
      (draft.video[0], noun)
      for draft in remaining(outcomes)
      for noun in position_words.nouns(draft.names.values())
      if not draft.boxes
    ]
    found = iter(self._detector([p for p, _ in asked], [n for _, n in asked]) if asked else [])

    results: list[Draft | Rejected] = []
    for outcome in outcomes:
      if isinstance(outcome, Rejected) or outcome.boxes:
        results.append(outcome)
        continue
      every = {noun: next(found) for noun in position_words.nouns(outcome.names.values())}
      results.append(attempt(_boxed, outcome, outcome, every))
    return results


def _named(draft: Draft) -> Draft:
  if not any(draft.names.values()):
    raise Reject('no object is named')
  if not draft.boxes and not all(any(map(str.isalnum, name)) for name in draft.names.values()):
    raise Reject('the name of an object has no words', ', '.join(draft.names.values()))
  return draft


def _boxed(draft: Draft, found: Mapping[str, Found]) -> Draft:
  boxes = position_words.assign(draft.names, found)
  if lost := [name for obj, name in draft.names.items() if obj not in boxes]:
    counts = [f'{len(found[noun][0])} boxes of "{noun}"' for noun in position_words.nouns(lost)]
    raise Reject('not detected', f'{", ".join(lost)}: {", ".join(counts)}')
  return dataclasses.replace(draft, boxes=boxes)


def main(argv: list[str] | None = None) -> None:
  parser = command.parser('detect', __doc__)
  add = parser.add_argument
  add('--image', required=True, help='image, or video, of which frame 0 is used')
  add('--name', required=True, action='append', help='name of an object; repeat for each')
  add('--threshold', type=float, default=THRESHOLD, help=f'minimum score; default {THRESHOLD}')
  args = parser.parse_args(argv)
  with front_door():
    step = DetectSettings(ModelSource.from_flags(args, args.model), args.threshold).build()
    (outcome,) = step([command.still(args.image, names=dict(enumerate(args.name, 1)))])
    if isinstance(outcome, Rejected):
      print(json.dumps({'rejected': outcome.reason, 'detail': outcome.detail}))
    else:
      boxes = {outcome.names[i]: box.tolist() for i, box in outcome.boxes.items()}
      print(json.dumps(boxes, ensure_ascii=False))


if __name__ == '__main__':
  main()
