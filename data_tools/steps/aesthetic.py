"""Aesthetic score of a clip: the mean over its first, middle and last frame.

    python -m data_tools.steps.aesthetic --model openai/clip-vit-large-patch14 \\
        --head aesthetic.safetensors --image photo.png

For the model and its head see `ttm_jax.pytorch.annotation.clip_score`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_tools.drafts import Draft, Rejected, attempt
from data_tools.steps import command
from ttm_jax.errors import front_door
from ttm_jax.pytorch.annotation.clip_score import ClipScore
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.rejection import Reject

NAME = 'aesthetic'


@dataclasses.dataclass(frozen=True)
class AestheticSettings:
  """Settings of the aesthetic step.

  Attributes:
    weights: the CLIP model.
    head: safetensors file of the head.
    least: minimum score; drafts below it are rejected.
  """

  weights: ModelSource
  head: str
  least: float = float('-inf')

  def build(self) -> 'Aesthetic':
    """Load the model and return the step."""
    return Aesthetic(ClipScore(self.weights, self.head), self.least)


class Aesthetic:
  """Score drafts, and reject those below the minimum."""

  def __init__(self, score: ClipScore, least: float = float('-inf')):
    """Args:
    score: a `ClipScore`, or a callable with the same signature.
    least: minimum score.
    """
    self._score, self._least = score, least

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    chosen = [np.unique([0, len(d.video) // 2, len(d.video) - 1]) for d in drafts]
    pictures = [d.video[i] for d, some in zip(drafts, chosen, strict=True) for i in some]
    scores = self._score(pictures) if pictures else np.zeros(0)
    ends = np.cumsum([len(some) for some in chosen])
    means = [float(scores[e - len(s) : e].mean()) for e, s in zip(ends, chosen, strict=True)]

    def scored(draft: Draft, mean: float) -> Draft:
      if mean < self._least:
        raise Reject(f'aesthetic score below {self._least:g}', f'{mean:.2f}')
      return dataclasses.replace(draft, scores={**draft.scores, NAME: mean})

    return [attempt(scored, d, d, m) for d, m in zip(drafts, means, strict=True)]


def main(argv: list[str] | None = None) -> None:
  parser = command.parser('aesthetic', __doc__)
  parser.add_argument('--head', required=True, help='safetensors file of the head')
  parser.add_argument(
    '--image', required=True, action='append', help='image or video; repeat for several'
  )
  args = parser.parse_args(argv)
  with front_door():
    step = AestheticSettings(ModelSource.from_flags(args, args.model), args.head).build()
    for outcome in step([command.still(path) for path in args.image]):
      assert isinstance(outcome, Draft)
      print(f'{outcome.scores[NAME]:.3f}  {outcome.key}')


if __name__ == '__main__':
  main()
