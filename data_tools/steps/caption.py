"""Caption videos that have no caption, with a vision language model (optional step).

    python -m data_tools.steps.caption --model meta-llama/Llama-3.2-11B-Vision-Instruct \\
        --video dog.mp4

The model gets the first, middle and last frame (paper, section 11) and the instruction in
`templates/caption.txt`. Any image-text-to-text model of transformers with a chat template works.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.drafts import Draft, Reject, Rejected, attempt
from data_tools.steps.load_sample import still
from data_tools.steps.prompts import TEMPLATES
from data_tools.steps.weights import ModelSource, add_flags, check_installed, from_flags
from ttm_jax.errors import InputError, front_door

MAX_NEW_TOKENS = 160

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


class VisionLanguageModel:
  """Greedy answers of a vision language model to groups of images."""

  def __init__(self, weights: ModelSource, template: str):
    check_installed()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
      self._instruction = Path(template).read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError) as error:
      raise InputError(f'{template}: cannot be read; give a text file') from error
    self._batch = weights.batch
    self._processor = weights.load_part(AutoProcessor)
    self._processor.tokenizer.padding_side = (
      'left'  # All prompts of a batch must end at the same position.
    )
    self._model = weights.load(AutoModelForImageTextToText)

  def __call__(self, groups: Sequence[Sequence[np.ndarray]]) -> list[str]:
    """Return one text per group of images uint8 [H, W, 3]."""
    texts: list[str] = []
    for start in range(0, len(groups), self._batch):
      texts += self._describe(groups[start : start + self._batch])
    return texts

  def _describe(self, groups: Sequence[Sequence[np.ndarray]]) -> list[str]:
    import torch

    pictures = [[Image.fromarray(picture) for picture in group] for group in groups]
    asked = [
      self._processor.apply_chat_template(
        [
          {
            'role': 'user',
            'content': [
              *({'type': 'image'} for _ in group),
              {'type': 'text', 'text': self._instruction},
            ],
          }
        ],
        add_generation_prompt=True,
      )
      for group in groups
    ]
    inputs = self._processor(
      images=pictures, text=asked, padding=True, add_special_tokens=False, return_tensors='pt'
    ).to(self._model.device, self._model.dtype)
    with torch.inference_mode():
      output = self._model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    return self._processor.batch_decode(
      output[:, inputs['input_ids'].shape[1] :], skip_special_tokens=True
    )


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
        raise Reject('the vision language model said nothing')
      return dataclasses.replace(draft, caption=text)

    return [attempt(captioned, draft, draft) for draft in drafts]


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    'python -m data_tools.steps.caption',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_flags(parser, batch=1)
  parser.add_argument(
    '--video', required=True, action='append', help='video or image; repeat for several'
  )
  parser.add_argument('--template', default=CaptionSettings.template)
  args = parser.parse_args(argv)
  with front_door():
    step = CaptionSettings(from_flags(args), args.template).build()
    for outcome in step([still(path) for path in args.video]):
      said = outcome.reason if isinstance(outcome, Rejected) else outcome.caption
      print(said)


if __name__ == '__main__':
  main()
