"""The self-contained text encoder: word ids, and a small module that is learnt with the network.

No vocabulary file: the id of a word is a hash of its letters. Two words may share an id; among the
few hundred words of a small dataset that is rare, and the words of the embedded scenes all differ
(tested). For open language use a pre-trained encoder.
"""

import re
import unicodedata
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.errors import InputError
from ttm_jax.models.initial import initializer
from ttm_jax.models.layers import Attention, Pairs, RMSNorm

Array = jax.Array

VOCABULARY = 4096
MAX_LENGTH = 128  # Positions that the encoder knows.
PAD, END = 0, 1
_SALT = b'ttm/'

unit_init = initializer(nnx.initializers.normal(1.0))


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


class WordEncoder(nnx.Module):
  """Word table + positions + one self-attention layer.

  Without the positions and the layer, "the ball rises and the star falls" would be a bag of words
  that does not say which of the two rises.
  """

  HEADS = 4

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    # Of unit size: in a small table what words have in common soon outweighs what tells them
    # apart, and the network never begins to read.
    self.table = nnx.Param(unit_init(rngs.params(), (VOCABULARY, dim), jnp.float32))
    self.positions = nnx.Param(unit_init(rngs.params(), (MAX_LENGTH, dim), jnp.float32))
    self.norm = RMSNorm(dim)
    self.attention = Attention(dim, self.HEADS, rngs=rngs)

  def __call__(self, ids: Array, bits: Array, length: int) -> Array:
    """ids and bits int32 [B, N], texts of `length` tokens one after the other -> [B, N, dim].

    Tokens attend to each other by their bits: a caption as a whole, each object prompt within
    itself, padding not at all.
    """
    position = jnp.arange(ids.shape[1]) % length
    x = self.table[...][ids] + self.positions[...][position]
    pairs = Pairs.make(bits, bits, x.shape[-1] // self.HEADS, 'float32')
    return x + self.attention(self.norm(x), None, pairs)
