"""Embed texts with a pretrained text encoder, for datasets and image descriptions."""

import functools
from collections.abc import Sequence

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed
from ttm_jax.pytorch.pretrained import check_texts

MAX_TOKENS = 1 << 16  # Most tokens of one text; datasets of longer ones would be too large.
_KEPT = 4096  # Size of the cache: variants of a clip share texts, and the empty text is frequent.


class TransformersText:
  """A pretrained text encoder; implements `ttm_jax.data.encode.TextEncoder`.

  It is `pytorch.pretrained_text.PretrainedText`, as in exported folders, with a cache.

  Attributes:
    dim: width of the embeddings.
  """

  def __init__(self, weights: ModelSource):
    check_installed()
    from ttm_jax.pytorch.pretrained_text import PretrainedText

    weights.check_folder()
    device, dtype = weights.torch_device, weights.torch_dtype
    encoder = PretrainedText(weights.model, device, dtype, weights.offline)
    self.dim, self._longest = encoder.dim, encoder.longest
    self._one = functools.lru_cache(_KEPT)(encoder.one)

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
