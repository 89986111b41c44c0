"""Assign captions to the ten categories of SA-V-128 with a language model.

    python -m data_tools.steps.category --model meta-llama/Llama-3.1-8B-Instruct \\
        --caption "A boy throws a ball and his dog leaps up to catch it."

The question is in `ttm_jax/pytorch/annotation/templates/category.txt`.
"""

import json
import re
from collections.abc import Sequence

from data_tools.selection import CATEGORIES
from data_tools.steps import command
from ttm_jax.errors import front_door
from ttm_jax.pytorch.annotation.language_model import (
  SLOT,
  TEMPLATES,
  Generate,
  LanguageModel,
  read_template,
)
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.texts import for_slot

TEMPLATE = str(TEMPLATES / 'category.txt')
UNCLEAR = 'Other'  # Also the category of answers that name no category.


class Categorize:
  """Return the category of each caption."""

  def __init__(self, generate: Generate, template: str = TEMPLATE):
    """Args:
    generate: a `LanguageModel`, or a callable with the same signature.
    template: text file that contains {caption} once.

    Raises:
      InputError: as in `language_model.read_template`.
    """
    self._generate, self._template = generate, read_template(template)

  def __call__(self, captions: Sequence[str]) -> list[str]:
    """Return an element of CATEGORIES per caption."""
    asked = [self._template.replace(SLOT, for_slot(caption)) for caption in captions]
    return [parse(answer) for answer in self._generate(asked)] if asked else []


def parse(answer: str) -> str:
  """Return the category that an answer names first, or UNCLEAR if it names none.

  Only the answer's first line with words counts, since models often continue with more examples.
  """
  line = next((line for line in answer.splitlines() if any(map(str.isalpha, line))), '')
  found = {}
  for category in CATEGORIES:
    # Accept singular and plural: "Vehicle", "Plants".
    stem = re.escape(category.removesuffix('s'))
    if named := re.search(rf'\b{stem}s?\b', line, re.IGNORECASE):
      found[category] = named.start()
  return min(found, key=lambda category: found[category]) if found else UNCLEAR


def main(argv: list[str] | None = None) -> None:
  parser = command.parser('category', __doc__)
  parser.add_argument('--caption', required=True, action='append', help='repeat for several')
  parser.add_argument('--template', default=TEMPLATE, help='text file with the question')
  args = parser.parse_args(argv)
  with front_door():
    source = ModelSource.from_flags(args, args.model)
    found = Categorize(LanguageModel(source), args.template)(args.caption)
    for caption, category in zip(args.caption, found, strict=True):
      print(json.dumps({'caption': caption, 'category': category}, ensure_ascii=False))


if __name__ == '__main__':
  main()
