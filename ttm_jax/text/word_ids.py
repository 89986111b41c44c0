"""Tokenizer of the text encoder `words`; does not depend on JAX, so that PyTorch code can use it.

The id of a word is a hash of its letters, so no vocabulary file is needed. Hash collisions are rare
among the few hundred words of a small dataset; a test checks that the words of the synthetic scenes
have none. Use a pretrained encoder for open-vocabulary text.
"""

import re
import unicodedata
import zlib

import numpy as np

from ttm_jax.errors import InputError

VOCABULARY = 4096
MAX_LENGTH = 128  # Number of position embeddings of the encoder.
PAD, END = 0, 1
_SALT = b'ttm/'


def word_id(word: str) -> int:
  """Return the id of a lower-case word, in [2, VOCABULARY)."""
  return 2 + zlib.crc32(_SALT + word.encode()) % (VOCABULARY - 2)


def tokenize(text: str, length: int) -> tuple[np.ndarray, int]:
  """Convert a text to word ids, terminated by END and padded with PAD.

  A word is a sequence of letters, digits and apostrophes of any script. Case and punctuation are
  ignored. Longer texts are truncated. The empty text is [END].

  Args:
    text: The text.
    length: Number of ids, 1 to MAX_LENGTH.

  Returns:
    The ids, int32 [length], and the number of ids that are not padding.

  Raises:
    InputError: If `length` is out of range.
  """
  if not 1 <= length <= MAX_LENGTH:
    raise InputError(f'texts must have 1 to {MAX_LENGTH} words, got a length of {length}')
  text = unicodedata.normalize('NFKC', text).lower()
  words = re.findall(r"(?:[^\W_]|')+", text)[: length - 1]
  ids = [word_id(word) for word in words] + [END]
  return np.array(ids + [PAD] * (length - len(ids)), np.int32), len(ids)
