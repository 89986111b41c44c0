"""The self-contained text encoder: word ids, and a small module that is learnt with the network."""

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.errors import InputError
from ttm_jax.nn.attention import Attention, AttentionMask
from ttm_jax.nn.initial import initializer
from ttm_jax.nn.norms import RMSNorm
from ttm_jax.text.word_ids import MAX_LENGTH, VOCABULARY

Array = jax.Array

unit_init = initializer(nnx.initializers.normal(1.0))


HEADS = 4


def check_width(dim: int) -> None:
  """Raise InputError unless word embeddings may have this width: their heads share it."""
  if dim < 1 or dim % HEADS:
    raise InputError(
      f'word embeddings of width {dim}: must be a multiple of {HEADS} above 0 (--words_dim of'
      ' data_tools.encode)'
    )


class WordEncoder(nnx.Module):
  """Word table + positions + one self-attention layer.

  Without the positions and the layer, "the ball rises and the star falls" would be a bag of words
  that does not say which of the two rises.
  """

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    check_width(dim)
    # Of unit size: in a small table what words have in common soon outweighs what tells them
    # apart, and the network never begins to read.
    self.table = nnx.Param(unit_init(rngs.params(), (VOCABULARY, dim), jnp.float32))
    self.positions = nnx.Param(unit_init(rngs.params(), (MAX_LENGTH, dim), jnp.float32))
    self.norm = RMSNorm(dim)
    self.attention = Attention(dim, HEADS, rngs=rngs)

  def __call__(self, ids: Array, bits: Array, length: int) -> Array:
    """ids and bits int32 [B, N], texts of `length` tokens one after the other -> [B, N, dim].

    Tokens attend to each other by their bits: a caption as a whole, each object prompt within
    itself, padding not at all.
    """
    position = jnp.arange(ids.shape[1]) % length
    x = self.table[...][ids] + self.positions[...][position]
    pairs = AttentionMask.make(bits, bits, x.shape[-1] // HEADS, 'float32')
    return x + self.attention(self.norm(x), None, pairs)
