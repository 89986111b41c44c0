"""Sentences to the text part of a condition, as the trained networks know it.

`words` needs no model: it is a hash, and its table lies in the networks. Pretrained encoders (CLIP
and the T5 family) are brought in by transformers when they are first needed, from a hub id or from
a folder beside the configuration. What the networks were told where a text is empty is kept here as
tensors, for guidance.
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
from .pretrained import check_texts, load_model, load_part
from .text import WORDS, EncoderConfig, key


class StageTexts(TypedDict):
  """What one stage reads.

  Attributes:
    encoders: its text encoders, in the order of its sequences.
    max_objects: slots for object prompts.
    prefix: precedes captions and motion prompts, but for `words`.
  """

  encoders: list[EncoderConfig]
  max_objects: int
  prefix: str


class TTMTextEncoder(Model):
  """(stage, captions, object prompts) -> the texts of a condition.

  Attributes:
    local_files_only: whether pretrained encoders may not come from the network.
  """

  FLOAT32 = ('empty',)

  @register_to_config
  def __init__(self, stages: Mapping[str, StageTexts], models: Mapping[str, str]):
    """Makes one without the tensors of the empty text.

    Args:
      stages: by name.
      models: hub id of each pretrained encoder by name, or the folder of it beside the
        configuration, beginning with './'.
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
    self._loaded: dict[str, _Pretrained] = {}

  def forward(
    self,
    stage: str,
    captions: Sequence[str],
    prompts: Sequence[Mapping[int, str]],
  ) -> Condition:
    """The condition of B samples without visual part or places.

    Args:
      captions: what the stage is told of the whole.
      prompts: of each sample, what each object does, by its number from 1.

    Raises:
      InputError: for an object beyond the slots, or a text encoder that cannot be had.
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
    """The condition of one sample of which nothing is said."""
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
      self._loaded[name] = _Pretrained(name, source, self.device, self.local_files_only)
    return self._loaded[name]

  def _placed(self, embedding: np.ndarray, length: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(embedding).to(self.device), torch.from_numpy(length).to(self.device)

  def _apply(self, fn: Any, recurse: bool = True) -> 'TTMTextEncoder':
    # Pretrained encoders move along, but are no part of what is saved.
    for encoder in self._loaded.values():
      encoder.model._apply(fn)
    return super()._apply(fn, recurse)


class _Empty(nn.Module):
  """The encodings of the empty text by one encoder, with a batch axis of 1."""

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


class _Pretrained:
  """A text encoder of transformers: (texts, length) to embeddings and counts.

  Embeddings are the last hidden states, rounded to float16 as in the datasets the networks learnt
  from, and zero where no token counts. Encoders of the T5 family mask their padding; CLIP attends
  to all of its places, so there all count.
  """

  def __init__(self, name: str, source: str, device: torch.device, local_files_only: bool):
    import transformers

    kinds: dict[str, Any] = {
      'clip': transformers.CLIPTextModel,
      'clip_text_model': transformers.CLIPTextModel,
      't5': transformers.T5EncoderModel,
      'umt5': transformers.UMT5EncoderModel,
      'mt5': transformers.MT5EncoderModel,
    }
    dtype = torch.float32 if device.type == 'cpu' else torch.bfloat16
    try:
      kind = load_part(transformers.AutoConfig, source, local_files_only).model_type
      self.tokenizer = load_part(transformers.AutoTokenizer, source, local_files_only)
      encoder = kinds.get(kind, transformers.AutoModel)
      model = load_model(encoder, source, local_files_only, dtype=dtype)
    except InputError as error:
      raise InputError(
        f'the text encoder {name!r} cannot be loaded from {os.path.normpath(source)}: {error}; or'
        ' correct "models" in config.json of the text encoder'
      ) from error
    self.model = model.to(device)
    self.all_count = 'clip' in kind

  def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """float16 [n, length, dim] and int32 [n]."""
    check_texts(texts)
    rows = [self._one(text, length) for text in texts]
    return np.stack([row for row, _ in rows]), np.array([count for _, count in rows], np.int32)

  @torch.inference_mode()
  def _one(self, text: str, length: int) -> tuple[np.ndarray, int]:
    tokens = self.tokenizer(
      [text], padding='max_length', truncation=True, max_length=length, return_tensors='pt'
    ).to(self.model.device)
    mask = None if self.all_count else tokens.attention_mask
    state = self.model(tokens.input_ids, attention_mask=mask).last_hidden_state[0]
    count = length if self.all_count else int(tokens.attention_mask.sum())
    state[count:] = 0
    values = state.float().cpu().numpy()
    if not np.abs(values).max(initial=0) < np.finfo(np.float16).max:
      raise InputError(
        f'the text encoder gives values beyond float16 in {self.model.dtype}: move the pipeline to'
        ' a device or dtype in which it does not'
      )
    return values.astype(np.float16), count


def encode_words(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
  """The `words` encoder: ids int32 [n, length], and how many of each count."""
  ids, counts = zip(*(tokenize(text, length) for text in texts), strict=True)
  return np.stack(ids), np.array(counts, np.int32)
