"""The text input of Wan: embeddings of one encoder, padded with zeros and never masked."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.conditioning import Text
from ttm_jax.errors import InputError
from ttm_jax.nn.feed_forward import MLP
from ttm_jax.nn.linear import lecun_init
from ttm_jax.text.encoders import WORDS, TextEncoderSpec
from ttm_jax.text.words import WordEncoder

Array = jax.Array


class TextEmbedder(nnx.Module):
  """Map the embeddings of a text encoder to the width of the network.

  Wan was trained on captions of umT5 that are padded to 512 tokens with zeros, and its
  cross-attention reads the padding too. Object prompts keep their padding mask.

  Attributes:
    mlp: projection to width d.
    words: the `words` encoder, if that is the text encoder.
    encoder: name and sizes of the text encoder.
  """

  def __init__(
    self, encoders: Mapping[str, TextEncoderSpec], d: int, *, rngs: nnx.Rngs, dtype=jnp.float32
  ):
    """Raise InputError unless there is exactly one text encoder."""
    if len(encoders) != 1:
      raise InputError(
        f'this backbone reads one text encoder, the dataset has {len(encoders)}'
        f' ({", ".join(encoders)}): encode it with one --text, or with the built-in `words`'
      )
    ((name, spec),) = encoders.items()
    # Smaller kernels make all texts alike, so that a network trained from scratch ignores them.
    self.mlp = MLP(spec.dim, d, d, rngs=rngs, dtype=dtype, init=lecun_init)
    self.words = WordEncoder(spec.dim, rngs=rngs) if name == WORDS else None
    self.encoder = (name, spec)

  def __call__(self, text: Text, prompts: bool = False) -> tuple[Array, Array]:
    """Return the embedded tokens.

    Args:
      text: tokens by encoder name.
      prompts: whether `text` has concatenated object prompts instead of one caption or motion
        prompt.

    Returns:
      Tokens [B, N, d] in the compute dtype, and their object sets, int32 [B, N].
    """
    name, spec = self.encoder
    tokens = text[name]
    embedding = tokens.embedding
    if self.words is not None:
      embedding = self.words(embedding, tokens.bits, spec.prompt_length if prompts else spec.length)
    # Padding may hold other values than zeros, such as those of the `words` encoder.
    return self.mlp(jnp.where(tokens.bits[..., None] != 0, embedding, 0)), tokens.bits
