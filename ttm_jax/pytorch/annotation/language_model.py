"""Motion prompts and object lists from captions, by a causal language model of transformers.

The paper uses Llama 3.1 8B (section 8). The tasks and answer formats follow the paper (figures 10
and 11); the wording and examples of `templates/` are our own. A template contains {caption} once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed
from ttm_jax.pytorch.annotation.texts import for_slot

TEMPLATES = Path(__file__).parent / 'templates'
MOTION, OBJECTS = str(TEMPLATES / 'motion.txt'), str(TEMPLATES / 'objects.txt')
SLOT = '{caption}'
MAX_NEW_TOKENS = 256

Generate = Callable[[Sequence[str]], list[str]]


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


class Questions:
  """Ask a language model about captions; `annotation.answers` parses the answers."""

  def __init__(
    self, generate: Generate, motion_template: str = MOTION, objects_template: str = OBJECTS
  ):
    """Read the templates.

    Args:
      generate: a `LanguageModel`, or a callable with the same signature.
      motion_template, objects_template: text files that contain {caption} once.

    Raises:
      InputError: as in `read_template`.
    """
    self._generate = generate
    self._motion, self._objects = map(read_template, (motion_template, objects_template))

  def motion(self, captions: Sequence[str]) -> dict[str, str]:
    """Return the answer about the motion, by caption. Equal captions are asked once."""
    return self._ask(self._motion, captions)

  def objects(self, captions: Sequence[str]) -> dict[str, str]:
    """Return the answer about the objects, by caption. Equal captions are asked once."""
    return self._ask(self._objects, captions)

  def _ask(self, template: str, captions: Sequence[str]) -> dict[str, str]:
    each = list(dict.fromkeys(captions))
    asked = [template.replace(SLOT, for_slot(caption)) for caption in each]
    return dict(zip(each, self._generate(asked), strict=True)) if asked else {}


def read_template(path: str | Path) -> str:
  """Return the text of a template for the language model.

  Raises:
    InputError: if the file cannot be read, or does not contain {caption} exactly once.
  """
  try:
    text = Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      f'{path}: cannot be read; give a text file that contains {SLOT} once'
    ) from error
  if text.count(SLOT) != 1:
    raise InputError(f'{path}: must contain {SLOT} once, but contains it {text.count(SLOT)} times')
  return text
