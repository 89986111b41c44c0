"""The text encoders of both stages: prompts -> the text part of a condition.

The encoder `words` needs no pretrained model: it hashes words, and its embeddings are weights of
the networks. Pretrained encoders (CLIP, T5, UMT5, mT5) are loaded with transformers on first use,
from a hub id or a folder beside the configuration. The embeddings of the empty text that the
networks were trained with are buffers here, for guidance.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ttm_jax.errors import InputError
from ttm_jax.text.word_ids import tokenize
from ttm_jax.untrusted import inside

from .conditioning import Condition, Objects, caption_tokens, prompt_tokens
from .model import Model
from .pretrained_text import PretrainedText
from .text import WORDS, EncoderConfig, key


class StageTexts(TypedDict):
  """The text inputs of one stage.

  Attributes:
    encoders: its text encoders, in the order in which their tokens are concatenated.
    max_objects: number of slots for object prompts.
    prefix: put before captions and motion prompts, for all encoders except `words`.
  """

  encoders: list[EncoderConfig]
  max_objects: int
  prefix: str


class TTMTextEncoder(Model):
  """(stage, captions, object prompts) -> the texts of a condition.

  Attributes:
    local_files_only: whether to load pretrained encoders without using the network.
  """

  FLOAT32 = ('empty',)

  @register_to_config
  def __init__(self, stages: Mapping[str, StageTexts], models: Mapping[str, str]):
    """Initialize the encoder; the embeddings of the empty text are zero until they are loaded.

    Args:
      stages: the text inputs of each stage, by its name.
      models: the source of each pretrained encoder, by its name: a hub id, or a folder relative to
        the configuration, starting with './'.
    """
    super().__init__()
    self.empty = nn.ModuleDict(
      {
        stage: nn.ModuleDict(
          {key(e['name']): _Empty(e, texts['max_objects']) for e in texts['encoders']}
        )
        for stage, texts in stages.items()
      }
    )
    self.local_files_only = False
    self._loaded: dict[str, PretrainedText] = {}

  def forward(
    self,
    stage: str,
    captions: Sequence[str],
    prompts: Sequence[Mapping[int, str]],
  ) -> Condition:
    """Return the condition of B samples, without visual condition and token masks.

    Args:
      stage: name of the stage.
      captions: B captions (stage 2) or motion prompts (stage 1).
      prompts: B dicts of object prompts by object number, from 1.

    Raises:
      InputError: if an object number exceeds the slots, or a text encoder cannot be loaded.
    """
    texts = self.config.stages[stage]
    most = texts['max_objects']
    if (highest := max((max(p, default=0) for p in prompts), default=0)) > most:
      raise InputError(
        f'there is an object {highest}, but {stage} knows {most}: number the objects 1 to {most}'
      )
    text, local = {}, {}
    for encoder in texts['encoders']:
      name, encode = encoder['name'], self._encoder(encoder['name'])
      prefix = texts['prefix'] if name != WORDS else ''
      said = [f'{prefix} {c}' if prefix and c else c for c in captions]
      text[name] = caption_tokens(*self._placed(*encode(said, encoder['length'])))
      flat = [p for sample in prompts for p in sample.values()]
      embedding, counts = encode(flat or [''], encoder['prompt_length'])
      slots = np.zeros((len(captions), most, *embedding.shape[1:]), embedding.dtype)
      lengths = np.zeros((len(captions), most), np.int32)
      places = [(b, obj - 1) for b, sample in enumerate(prompts) for obj in sample]
      for row, place in enumerate(places):
        slots[place], lengths[place] = embedding[row], counts[row]
      local[name] = prompt_tokens(*self._placed(slots, lengths))
    return Condition(text, None, Objects((), local))

  def null(self, stage: str) -> Condition:
    """Return the condition of a stage for the empty text, with batch size 1, for guidance."""
    encoders = self.config.stages[stage]['encoders']
    places: Any = self.empty[stage]
    empty = {e['name']: places[key(e['name'])] for e in encoders}
    return Condition(
      {name: caption_tokens(e.caption, e.caption_length) for name, e in empty.items()},
      None,
      Objects((), {name: prompt_tokens(e.prompts, e.prompts_length) for name, e in empty.items()}),
    )

  def _encoder(self, name: str) -> Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]:
    if name == WORDS:
      return encode_words
    if name not in self._loaded:
      source = self.config.models.get(name)
      if not source:
        raise InputError(f'no model is named for the text encoder {name!r}: export it with --text')
      if source.startswith('./'):
        folder = Path(self.config._name_or_path)
        source = str(inside(folder, source[2:], folder / 'config.json'))
      dtype = torch.float32 if self.device.type == 'cpu' else torch.bfloat16
      try:
        self._loaded[name] = PretrainedText(source, self.device, dtype, self.local_files_only)
      except InputError as error:
        raise InputError(
          f'the text encoder {name!r} cannot be loaded from {os.path.normpath(source)}: {error}; or'
          ' correct "models" in config.json of the text encoder'
        ) from error
    return self._loaded[name]

  def _placed(self, embedding: np.ndarray, length: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(embedding).to(self.device), torch.from_numpy(length).to(self.device)

  def _apply(self, fn: Any, recurse: bool = True) -> 'TTMTextEncoder':
    # Move pretrained encoders too; they are not submodules, so that they are not saved.
    for encoder in self._loaded.values():
      encoder.model._apply(fn)
    return super()._apply(fn, recurse)


class _Empty(nn.Module):
  """Buffers with the embeddings of the empty text by one encoder, with batch size 1."""

  def __init__(self, encoder: EncoderConfig, max_objects: int):
    super().__init__()
    tail = () if encoder['name'] == WORDS else (encoder['dim'],)
    kind = torch.int32 if encoder['name'] == WORDS else torch.float16
    zeros = {
      'caption': torch.zeros(1, encoder['length'], *tail, dtype=kind),
      'caption_length': torch.zeros(1, dtype=torch.int32),
      'prompts': torch.zeros(1, max_objects, encoder['prompt_length'], *tail, dtype=kind),
      'prompts_length': torch.zeros(1, max_objects, dtype=torch.int32),
    }
    for name, tensor in zeros.items():
      self.register_buffer(name, tensor)


def encode_words(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
  """Return token ids int32 [n, length] of the encoder `words`, and numbers of tokens int32 [n]."""
  ids, counts = zip(*(tokenize(text, length) for text in texts), strict=True)
  return np.stack(ids), np.array(counts, np.int32)
