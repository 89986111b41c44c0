"""Word ids, what the text encoder `words` reads; without JAX, for PyTorch too.

No vocabulary file: the id of a word is a hash of its letters. Two words may share an id; among the
few hundred words of a small dataset that is rare, and the words of the embedded scenes all differ
(tested). For open language use a pre-trained encoder.
"""

import re
import unicodedata
import zlib

import numpy as np

from ttm_jax.errors import InputError

VOCABULARY = 4096
MAX_LENGTH = 128  # Positions that the encoder knows.
PAD, END = 0, 1
_SALT = b'ttm/'


def word_id(word: str) -> int:
  """The id of one lower-case word, in [2, VOCABULARY)."""
  return 2 + zlib.crc32(_SALT + word.encode()) % (VOCABULARY - 2)


def tokenize(text: str, length: int) -> tuple[np.ndarray, int]:
  """Word ids int32 [length], ended by END and padded with PAD, and how many of them count.

  A word is a run of letters, digits and apostrophes of any script. Case and punctuation are
  ignored; what exceeds the length is cut. The empty text is [END].

  Raises:
    InputError: if the length is not 1 to MAX_LENGTH.
  """
  if not 1 <= length <= MAX_LENGTH:
    raise InputError(f'texts must have 1 to {MAX_LENGTH} words, got a length of {length}')
  text = unicodedata.normalize('NFKC', text).lower()
  words = re.findall(r"(?:[^\W_]|')+", text)[: length - 1]
  ids = [word_id(word) for word in words] + [END]
  return np.array(ids + [PAD] * (length - len(ids)), np.int32), len(ids)
