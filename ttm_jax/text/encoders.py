"""Which text encoders a network reads, and how their tokens enter it.

Encoders run offline; their embeddings lie in the dataset. The exception is `words`, whose word ids
lie there and which is learnt with the network. Each encoder has a projection of its own to the
width of the network; the sequences are then concatenated (as in Movie Gen).
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.conditioning import EVERYONE, Text, Tokens
from ttm_jax.nn.linear import Linear
from ttm_jax.nn.norms import RMSNorm
from ttm_jax.text.words import WordEncoder

Array = jax.Array

WORDS = 'words'


@dataclasses.dataclass(frozen=True)
class TextEncoderSpec:
  """One text encoder as a network sees it.

  Attributes:
    dim: width of its embeddings.
    length: tokens of a caption or motion prompt, padded.
    prompt_length: tokens of one object prompt, padded.
  """

  dim: int
  length: int
  prompt_length: int


# The text encoder of Stable Diffusion 1.5 (openai/clip-vit-large-patch14). There padding is read as
# well: whoever embeds texts offline gives each the full length of 77.
CLIP_L = TextEncoderSpec(dim=768, length=77, prompt_length=77)


class TextProjector(nnx.Module):
  """Texts of all encoders -> one sequence of tokens of width d.

  Attributes:
    as_they_are: whether embeddings from outside that have this width already enter unprojected.
  """

  def __init__(
    self,
    encoders: Mapping[str, TextEncoderSpec],
    d: int,
    *,
    rngs: nnx.Rngs,
    dtype,
    as_they_are: bool = False,
  ):
    projected = {
      name: e for name, e in encoders.items() if name == WORDS or e.dim != d or not as_they_are
    }
    self.projections = nnx.Dict(
      {name: Linear(e.dim, d, rngs=rngs, dtype=dtype) for name, e in projected.items()}
    )
    self.norms = nnx.Dict({name: RMSNorm(d) for name in projected})
    self.words = WordEncoder(encoders[WORDS].dim, rngs=rngs) if WORDS in encoders else None
    self.encoders = tuple(encoders.items())
    self.dtype = dtype

  def __call__(self, text: Text, prompts: bool = False) -> tuple[Array, Array]:
    """Text -> (float [B, N, d], bits int32 [B, N]), encoders in the order of the configuration.

    Args:
      prompts: whether the text is the object prompts, one after the other.
    """
    sequences, bits = [], []
    for name, encoder in self.encoders:
      tokens = text[name]
      embedding = tokens.embedding
      if name == WORDS:
        each = encoder.prompt_length if prompts else encoder.length
        assert self.words is not None
        embedding = self.words(embedding, tokens.bits, each)
      if name in self.projections:
        embedding = self.norms[name](self.projections[name](embedding))
      else:
        embedding = embedding.astype(self.dtype)
      sequences.append(embedding)
      bits.append(tokens.bits)
    return jnp.concatenate(sequences, 1), jnp.concatenate(bits, 1)


def caption_tokens(embedding: Array, length: Array) -> Tokens:
  """A caption: [B, N, ...] of which `length` [B] tokens count -> Tokens for everyone."""
  counts = jnp.arange(embedding.shape[1]) < length[:, None]
  return Tokens(embedding, jnp.where(counts, EVERYONE, 0).astype(jnp.int32))


def prompt_tokens(embedding: Array, length: Array) -> Tokens:
  """Object prompts: [B, L, N, ...] of which `length` [B, L] count -> Tokens [B, L N, ...].

  The prompt in slot l - 1 speaks to object l; an empty slot (length 0) to nobody.
  """
  b, objects, n = embedding.shape[:3]
  counts = jnp.arange(n) < length[..., None]
  bits = jnp.left_shift(1, jnp.arange(1, objects + 1, dtype=jnp.int32))[None, :, None]
  bits = jnp.where(counts, bits, 0).astype(jnp.int32)
  return Tokens(
    embedding.reshape(b, objects * n, *embedding.shape[3:]), bits.reshape(b, objects * n)
  )


def total_tokens(encoders: Mapping[str, TextEncoderSpec], max_objects: int) -> tuple[int, int]:
  """How many tokens a caption and all object prompts have, over all encoders."""
  captions = sum(e.length for e in encoders.values())
  return captions, max_objects * sum(e.prompt_length for e in encoders.values())


def pad(embedding: np.ndarray, length: int) -> np.ndarray:
  """Cuts or zero-pads [n, ...] to [length, ...]."""
  embedding = embedding[:length]
  return np.pad(embedding, [(0, length - len(embedding))] + [(0, 0)] * (embedding.ndim - 1))
