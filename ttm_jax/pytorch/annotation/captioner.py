"""Answers of a vision language model of transformers to groups of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed

MAX_NEW_TOKENS = 160


class VisionLanguageModel:
  """Greedy answers of a vision language model to groups of images."""

  def __init__(self, weights: ModelSource, template: str):
    """Load the model, and the instruction from the text file `template`."""
    check_installed()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
      self._instruction = Path(template).read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError) as error:
      raise InputError(f'{template}: cannot be read; give a text file') from error
    self._batch = weights.batch
    self._processor = weights.load_part(AutoProcessor)
    # All prompts of a batch must end at the same position.
    self._processor.tokenizer.padding_side = 'left'
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
    question = {'type': 'text', 'text': self._instruction}
    asked = [
      self._processor.apply_chat_template(
        [{'role': 'user', 'content': [*({'type': 'image'} for _ in group), question]}],
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
