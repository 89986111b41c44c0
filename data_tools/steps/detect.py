"""Detect the boxes of the named objects in frame 0 with Grounding DINO (transformers).

    python -m data_tools.steps.detect --model IDEA-Research/grounding-dino-base \\
        --image photo.png --name "left dog" --name ball

Each noun is a separate query, so boxes need not be assigned to one of several labels by their text.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from data_tools.drafts import Draft, Reject, Rejected, attempt, remaining
from data_tools.steps.load_sample import still
from data_tools.steps.weights import ModelSource, add_flags, check_installed, from_flags
from ttm_jax.errors import front_door
from ttm_jax.inference import position_words

Found = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class DetectSettings:
  """Settings of the detect step.

  Attributes:
    weights: the Grounding DINO model.
    threshold: minimum score of a box.
  """

  weights: ModelSource
  threshold: float = 0.25

  def build(self) -> 'Detect':
    """Load the model and return the step."""
    return Detect(GroundingDino(self.weights, self.threshold))


class GroundingDino:
  """Boxes and scores of nouns in images."""

  def __init__(self, weights: ModelSource, threshold: float = 0.25):
    check_installed()
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    from ttm_jax.pytorch.detection import detect

    self._batch, self._threshold = weights.batch, threshold
    self._processor = weights.load_part(AutoProcessor)
    self._model, self._detect = weights.load(AutoModelForZeroShotObjectDetection), detect

  def __call__(self, pictures: Sequence[np.ndarray], nouns: Sequence[str]) -> list[Found]:
    """Detect noun i in image i.

    Args:
      pictures: images uint8 [H, W, 3].
      nouns: noun phrases, one per image.

    Returns:
      For each image, boxes float32 [n, 4] (x0, y0, x1, y1), in pixels and clipped to the image, and
      scores [n].
    """
    found: list[Found] = []
    for start in range(0, len(nouns), self._batch):
      part = slice(start, start + self._batch)
      results = self._detect(
        self._model, self._processor, pictures[part], nouns[part], self._threshold
      )
      found += [(result.boxes, result.scores) for result in results]
    return found


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
  parser = argparse.ArgumentParser(
    'python -m data_tools.steps.detect',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_flags(parser)
  parser.add_argument('--image', required=True, help='image, or video, of which frame 0 is used')
  parser.add_argument(
    '--name', required=True, action='append', help='name of an object; repeat for each'
  )
  parser.add_argument('--threshold', type=float, default=0.25, help='minimum score; default 0.25')
  args = parser.parse_args(argv)
  with front_door():
    step = DetectSettings(from_flags(args), args.threshold).build()
    (outcome,) = step([still(args.image, names=dict(enumerate(args.name, 1)))])
    if isinstance(outcome, Rejected):
      print(json.dumps({'rejected': outcome.reason, 'detail': outcome.detail}))
    else:
      boxes = {outcome.names[i]: box.tolist() for i, box in outcome.boxes.items()}
      print(json.dumps(boxes, ensure_ascii=False))


if __name__ == '__main__':
  main()
