"""Derive prompts from captions with a language model: c_motion, object names and c_local.

    python -m data_tools.steps.prompts --model meta-llama/Llama-3.1-8B-Instruct \\
        --caption "A boy throws a ball and his dog leaps up to catch it."

For the model and its templates see `ttm_jax.pytorch.annotation.language_model`.
"""

import dataclasses
import json
from collections.abc import Sequence

from data_tools.drafts import Draft, Rejected, attempt, remaining
from data_tools.steps import command
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import front_door
from ttm_jax.pytorch.annotation import answers
from ttm_jax.pytorch.annotation.language_model import (
  MOTION,
  OBJECTS,
  Generate,
  LanguageModel,
  Questions,
)
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.texts import check_for_language_model


@dataclasses.dataclass(frozen=True)
class PromptSettings:
  """Settings of the prompts step.

  Attributes:
    weights: the language model.
    max_objects: most objects per clip; drafts with more are rejected.
    motion_template, objects_template: text files that contain {caption} once.
  """

  weights: ModelSource
  max_objects: int = MAX_OBJECTS
  motion_template: str = MOTION
  objects_template: str = OBJECTS

  def build(self) -> 'Prompts':
    """Load the language model and the templates, and return the step."""
    return Prompts(LanguageModel(self.weights), self)


class Prompts:
  """Fill in the motion prompt, object names and object prompts of drafts from their captions."""

  def __init__(self, generate: Generate, settings: PromptSettings):
    """Args:
    generate: a `LanguageModel`, or a callable with the same signature.
    settings: settings of the step; its `weights` are not used here.
    """
    templates = settings.motion_template, settings.objects_template
    self._questions, self._most = Questions(generate, *templates), settings.max_objects

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    outcomes = [attempt(_with_usable_caption, draft, draft) for draft in drafts]
    # Texts that a draft already has are kept.
    usable = remaining(outcomes)
    motion = self._questions.motion([d.caption for d in usable if not d.motion])
    objects = self._questions.objects([d.caption for d in usable if not d.prompts])

    def filled(draft: Draft) -> Draft:
      said = draft.motion or answers.parse_motion(motion[draft.caption])
      names, prompts = draft.names, draft.prompts
      if not prompts:
        found = answers.parse_objects(objects[draft.caption], self._most)
        names, prompts = (dict(enumerate(texts, 1)) for texts in found)
      return dataclasses.replace(draft, motion=said, names=names, prompts=prompts)

    return [o if isinstance(o, Rejected) else attempt(filled, o, o) for o in outcomes]


def _with_usable_caption(draft: Draft) -> Draft:
  check_for_language_model(draft.caption)
  return draft


def main(argv: list[str] | None = None) -> None:
  parser = command.parser('prompts', __doc__)
  add = parser.add_argument
  add('--caption', required=True, action='append', help='caption; repeat for several')
  add('--max_objects', type=int, default=MAX_OBJECTS, help='captions with more are rejected')
  add('--motion_template', default=MOTION, help='text file with the question about the motion')
  add('--objects_template', default=OBJECTS, help='text file with the question about the objects')
  args = parser.parse_args(argv)
  with front_door():
    source = ModelSource.from_flags(args, args.model)
    step = PromptSettings(
      source, args.max_objects, args.motion_template, args.objects_template
    ).build()
    outcomes = step([command.still(caption=caption) for caption in args.caption])
    for caption, outcome in zip(args.caption, outcomes, strict=True):
      if isinstance(outcome, Rejected):
        said = {'caption': caption, 'rejected': outcome.reason, 'detail': outcome.detail}
      else:
        objects = {name: outcome.prompts[i] for i, name in outcome.names.items()}
        said = {'caption': caption, 'motion': outcome.motion, 'objects': objects}
      print(json.dumps(said, ensure_ascii=False))


if __name__ == '__main__':
  main()
