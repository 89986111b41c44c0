"""Caption videos that have no caption, with a vision language model (optional step).

    python -m data_tools.steps.caption --model meta-llama/Llama-3.2-11B-Vision-Instruct \\
        --video dog.mp4

The model gets the first, middle and last frame (paper, section 11) and the instruction in
`ttm_jax/pytorch/annotation/templates/caption.txt`. Any image-text-to-text model of transformers
with a chat template works.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from data_tools.drafts import Draft, Rejected, attempt
from data_tools.steps import command
from ttm_jax.errors import front_door
from ttm_jax.pytorch.annotation.captioner import VisionLanguageModel
from ttm_jax.pytorch.annotation.language_model import TEMPLATES
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.rejection import Reject

Describe = Callable[[Sequence[Sequence[np.ndarray]]], list[str]]


@dataclasses.dataclass(frozen=True)
class CaptionSettings:
  """Settings of the caption step.

  Attributes:
    weights: the vision language model.
    template: text file with the instruction.
  """

  weights: ModelSource
  template: str = str(TEMPLATES / 'caption.txt')

  def build(self) -> 'Caption':
    """Load the model and return the step."""
    return Caption(VisionLanguageModel(self.weights, self.template))


class Caption:
  """Fill in the captions of drafts that have none."""

  def __init__(self, describe: Describe):
    """Args:
    describe: a `VisionLanguageModel`, or a callable with the same signature.
    """
    self._describe = describe

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    bare = [draft for draft in drafts if not draft.caption]
    groups = [[d.video[i] for i in (0, len(d.video) // 2, len(d.video) - 1)] for d in bare]
    texts = iter(self._describe(groups) if groups else [])

    def captioned(draft: Draft) -> Draft:
      if draft.caption:
        return draft
      text = ' '.join(next(texts).split())
      if not text:
        raise Reject('the vision language model returned no text')
      return dataclasses.replace(draft, caption=text)

    return [attempt(captioned, draft, draft) for draft in drafts]


def main(argv: list[str] | None = None) -> None:
  parser = command.parser('caption', __doc__, batch=1)
  parser.add_argument(
    '--video', required=True, action='append', help='video or image; repeat for several'
  )
  parser.add_argument(
    '--template', default=CaptionSettings.template, help='text file with the question'
  )
  args = parser.parse_args(argv)
  with front_door():
    step = CaptionSettings(ModelSource.from_flags(args, args.model), args.template).build()
    for outcome in step([command.still(path) for path in args.video]):
      print(outcome.reason if isinstance(outcome, Rejected) else outcome.caption)


if __name__ == '__main__':
  main()
