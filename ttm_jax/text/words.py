"""The text encoder `words`: a small module on word ids that is trained with the network."""

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
  """Raise InputError unless the embedding width is a positive multiple of the number of heads."""
  if dim < 1 or dim % HEADS:
    raise InputError(
      f'word embeddings of width {dim}: must be a multiple of {HEADS} above 0 (--words_dim of'
      ' data_tools.encode)'
    )


class WordEncoder(nnx.Module):
  """Word embeddings, position embeddings and one self-attention layer.

  Positions and attention encode the word order. A bag of words could not tell which object rises in
  "the ball rises and the star falls".

  Attributes:
    table: Word embeddings, float32 [VOCABULARY, dim].
    positions: Position embeddings, float32 [MAX_LENGTH, dim].
    norm: RMSNorm before the attention.
    attention: Self-attention with HEADS heads.
  """

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    check_width(dim)
    # Initialize with unit variance. With a smaller one, the component that all words share soon
    # dominates their differences, and the network does not learn to use the text.
    self.table = nnx.Param(unit_init(rngs.params(), (VOCABULARY, dim), jnp.float32))
    self.positions = nnx.Param(unit_init(rngs.params(), (MAX_LENGTH, dim), jnp.float32))
    self.norm = RMSNorm(dim)
    self.attention = Attention(dim, HEADS, rngs=rngs)

  def __call__(self, ids: Array, bits: Array, length: int) -> Array:
    """Return word embeddings in context, float32 [B, N, dim].

    Tokens attend to each other if their object sets intersect: within a caption, within each object
    prompt, and not to padding.

    Args:
      ids: int32 [B, N], word ids of concatenated texts of `length` tokens each.
      bits: int32 [B, N], object sets; see `conditioning.Tokens`.
      length: Number of tokens per text, with padding.
    """
    position = jnp.arange(ids.shape[1]) % length
    x = self.table[...][ids] + self.positions[...][position]
    pairs = AttentionMask.make(bits, bits, x.shape[-1] // HEADS, 'float32')
    return x + self.attention(self.norm(x), None, pairs)
