"""Derive prompts from captions with a language model: c_motion, object names and c_local.

    python -m data_tools.steps.prompts --model meta-llama/Llama-3.1-8B-Instruct \\
        --caption "A boy throws a ball and his dog leaps up to catch it."

Any causal language model of transformers works; the paper uses Llama 3.1 8B (section 8). The tasks
and answer formats follow the paper (figures 10 and 11); the wording and examples are our own. The
templates are in `templates/` and can be replaced by other files that contain {caption} once.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from data_tools.drafts import Draft, Reject, Rejected, attempt, check_caption, remaining
from data_tools.steps import answers
from data_tools.steps.weights import ModelSource, add_flags, check_installed, from_flags
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import InputError, front_door

TEMPLATES = Path(__file__).parent / 'templates'
SLOT = '{caption}'
MAX_NEW_TOKENS = 256
MAX_CAPTION_CHARACTERS = 8000

Generate = Callable[[Sequence[str]], list[str]]


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
  motion_template: str = str(TEMPLATES / 'motion.txt')
  objects_template: str = str(TEMPLATES / 'objects.txt')

  def build(self) -> 'Prompts':
    """Load the language model and the templates, and return the step."""
    return Prompts(LanguageModel(self.weights), self)


class LanguageModel:
  """Greedy decoding with a causal language model."""

  def __init__(self, weights: ModelSource):
    check_installed()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    self._batch = weights.batch
    self._tokenizer = weights.load_part(AutoTokenizer)
    if self._tokenizer.pad_token is None:
      self._tokenizer.pad_token = self._tokenizer.eos_token
    self._tokenizer.padding_side = 'left'  # All prompts of a batch must end at the same position.
    self._model = weights.load(AutoModelForCausalLM)

  def __call__(self, prompts: Sequence[str]) -> list[str]:
    """Return the text that the model generates for each prompt, without the prompt."""
    answered: list[str] = []
    for start in range(0, len(prompts), self._batch):
      answered += self._answer(prompts[start : start + self._batch])
    return answered

  def _answer(self, prompts: Sequence[str]) -> list[str]:
    import torch

    chat = self._tokenizer.chat_template is not None
    if chat:
      texts = [
        self._tokenizer.apply_chat_template(
          [{'role': 'user', 'content': prompt}],
          tokenize=False,
          add_generation_prompt=True,
          # Chat templates without this option ignore it. Reasoning would use up MAX_NEW_TOKENS.
          enable_thinking=False,
        )
        for prompt in prompts
      ]
    else:
      texts = list(prompts)
    # A chat template already adds the special tokens.
    tokens = self._tokenizer(
      texts, return_tensors='pt', padding=True, add_special_tokens=not chat
    ).to(self._model.device)
    with torch.inference_mode():
      output = self._model.generate(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        pad_token_id=self._tokenizer.pad_token_id,
      )
    return self._tokenizer.batch_decode(
      output[:, tokens.input_ids.shape[1] :], skip_special_tokens=True
    )


class Prompts:
  """Fill in the motion prompt, object names and object prompts of drafts from their captions."""

  def __init__(self, generate: Generate, settings: PromptSettings):
    """Args:
    generate: a `LanguageModel`, or a callable with the same signature.
    settings: settings of the step; its `weights` are not used here.
    """
    self._generate, self._settings = generate, settings
    self._motion = read_template(settings.motion_template)
    self._objects = read_template(settings.objects_template)

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    outcomes = [attempt(_with_usable_caption, draft, draft) for draft in drafts]
    # `_answers` prompts once per distinct caption, since clips of a video share it. Texts that a
    # draft already has are kept.
    usable = remaining(outcomes)
    motion = self._answers(self._motion, [d.caption for d in usable if not d.motion])
    objects = self._answers(self._objects, [d.caption for d in usable if not d.prompts])

    def filled(draft: Draft) -> Draft:
      said = draft.motion or answers.parse_motion(motion[draft.caption])
      names, prompts = draft.names, draft.prompts
      if not prompts:
        found = answers.parse_objects(objects[draft.caption], self._settings.max_objects)
        names, prompts = (dict(enumerate(texts, 1)) for texts in found)
      return dataclasses.replace(draft, motion=said, names=names, prompts=prompts)

    return [o if isinstance(o, Rejected) else attempt(filled, o, o) for o in outcomes]

  def _answers(self, template: str, captions: Sequence[str]) -> dict[str, str]:
    each = list(dict.fromkeys(captions))
    asked = [template.replace(SLOT, answers.for_slot(caption)) for caption in each]
    return dict(zip(each, self._generate(asked), strict=True)) if asked else {}


def _with_usable_caption(draft: Draft) -> Draft:
  check_caption(draft)
  if not any(c.isalnum() for c in draft.caption):
    raise Reject('no words in the caption', repr(draft.caption[:80]))
  # The limit on words does not apply to scripts without spaces, or to text without words.
  if len(draft.caption) > MAX_CAPTION_CHARACTERS:
    raise Reject(f'caption of more than {MAX_CAPTION_CHARACTERS} characters')
  return draft


def read_template(path: str | Path) -> str:
  """Return the text of a template for the language model.

  Raises:
    InputError: if the file cannot be read, or does not contain {caption} exactly once.
  """
  try:
    text = Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'{path}: cannot be read; give a text file with a slot {SLOT}') from error
  if text.count(SLOT) != 1:
    raise InputError(f'{path}: must have one slot {SLOT}, has {text.count(SLOT)}')
  return text


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    'python -m data_tools.steps.prompts',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_flags(parser)
  parser.add_argument(
    '--caption', required=True, action='append', help='caption; repeat for several'
  )
  parser.add_argument('--max_objects', type=int, default=MAX_OBJECTS)
  parser.add_argument('--motion_template', default=PromptSettings.motion_template)
  parser.add_argument('--objects_template', default=PromptSettings.objects_template)
  args = parser.parse_args(argv)
  with front_door():
    step = PromptSettings(
      from_flags(args), args.max_objects, args.motion_template, args.objects_template
    ).build()
    from data_tools.steps.load_sample import still

    for caption, outcome in zip(
      args.caption, step([still(caption=caption) for caption in args.caption]), strict=True
    ):
      if isinstance(outcome, Rejected):
        said = {'caption': caption, 'rejected': outcome.reason, 'detail': outcome.detail}
      else:
        objects = {name: outcome.prompts[i] for i, name in outcome.names.items()}
        said = {'caption': caption, 'motion': outcome.motion, 'objects': objects}
      print(json.dumps(said, ensure_ascii=False))


if __name__ == '__main__':
  main()
