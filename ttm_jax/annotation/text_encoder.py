"""Embed texts with a text encoder of transformers: CLIP, T5, UL2, umT5, ByT5.

A dataset stores the last hidden states of a text and the number of valid tokens. Encoders of the T5
family mask their padding, so only the real tokens are valid. CLIP attends to all 77 positions, and
diffusion models are trained with all of them, so all positions are valid.
"""

import functools
from collections.abc import Sequence

import numpy as np

from ttm_jax.annotation.model_source import ModelSource, check_installed
from ttm_jax.errors import InputError
from ttm_jax.pytorch.pretrained import check_texts

MAX_TOKENS = 1 << 16  # Most tokens of one text; datasets of longer ones would be too large.
_KEPT = 4096  # Size of the cache: variants of a clip share texts, and the empty text is frequent.


class TransformersText:
  """A pretrained text encoder; implements `ttm_jax.data.encode.TextEncoder`.

  Attributes:
    dim: width of the embeddings.
  """

  def __init__(self, weights: ModelSource):
    check_installed()
    from transformers import AutoConfig, AutoTokenizer

    config = weights.load_part(AutoConfig)
    self._tokenizer = weights.load_part(AutoTokenizer)
    self._model = weights.load(_encoder_class(config.model_type))
    self._batch = weights.batch
    self._all_count = 'clip' in config.model_type
    # A CLIP configuration has a separate section for its text model.
    text = getattr(config, 'text_config', config)
    self.dim = int(getattr(text, 'd_model', None) or text.hidden_size)
    # None for T5, whose relative positions do not limit the length.
    self._longest = getattr(text, 'max_position_embeddings', None)
    self._one = functools.lru_cache(_KEPT)(lambda text, length: self._encode([text], length)[0])

  def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Embed n texts.

    A text of more than `length` tokens is truncated; its last token is then the end-of-text token.

    Args:
      texts: the texts.
      length: number of tokens to pad or truncate to.

    Returns:
      Embeddings float16 [n, length, dim], zero for invalid tokens, and the number of valid tokens
      int32 [n].

    Raises:
      InputError: if `length` is out of range or exceeds the positions of the encoder, a text is not
        valid Unicode, or an embedding exceeds the range of float16.
    """
    check_texts(texts)
    if not 1 <= length <= MAX_TOKENS:
      raise InputError(f'a text length of {length} tokens: give 1 to {MAX_TOKENS}')
    if self._longest and length > self._longest:
      raise InputError(
        f'a length of {length} tokens: the text encoder reads at most {self._longest}'
      )
    encoded = [self._one(text, length) for text in texts]
    return np.stack([e for e, _ in encoded]), np.array([n for _, n in encoded], np.int32)

  def _encode(self, texts: list[str], length: int) -> list[tuple[np.ndarray, int]]:
    import torch

    tokens = self._tokenizer(
      texts, padding='max_length', truncation=True, max_length=length, return_tensors='pt'
    ).to(self._model.device)
    # CLIP was trained, and is used by diffusion models, without a padding mask.
    mask = None if self._all_count else tokens.attention_mask
    with torch.inference_mode():
      states = self._model(tokens.input_ids, attention_mask=mask).last_hidden_state
    counts = [length] * len(texts) if self._all_count else tokens.attention_mask.sum(1).tolist()
    result = []
    for state, count in zip(states.float().cpu().numpy(), counts, strict=True):
      state[count:] = 0
      if not np.abs(state).max(initial=0) < np.finfo(np.float16).max:
        raise InputError(
          'an embedding exceeds the range of float16: run the text encoder with --dtype float32'
        )
      result.append((state.astype(np.float16), int(count)))
    return result


def _encoder_class(model_type: str):
  import transformers

  named = {
    'clip': transformers.CLIPTextModel,
    'clip_text_model': transformers.CLIPTextModel,
    't5': transformers.T5EncoderModel,
    'umt5': transformers.UMT5EncoderModel,
    'mt5': transformers.MT5EncoderModel,
  }
  return named.get(model_type, transformers.AutoModel)
