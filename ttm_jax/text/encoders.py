"""Specification of the text encoders of a network, and projection of their tokens.

Text encoders run offline, and the dataset stores their embeddings. The exception is `words`: the
dataset stores word ids, and the encoder is trained with the network. Each encoder has its own
projection to the network width. The projected sequences are concatenated, as in Movie Gen.
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
  """Sizes of one text encoder's output.

  Attributes:
    dim: Width of the embeddings.
    length: Number of tokens of a caption or motion prompt, with padding.
    prompt_length: Number of tokens of one object prompt, with padding.
  """

  dim: int
  length: int
  prompt_length: int


# The text encoder of Stable Diffusion 1.5 (openai/clip-vit-large-patch14). Stable Diffusion attends
# to padding too, so the offline encoding gives all texts the full length of 77.
CLIP_L = TextEncoderSpec(dim=768, length=77, prompt_length=77)


class TextProjector(nnx.Module):
  """Project the tokens of all text encoders to width d and concatenate them.

  Attributes:
    projections: Linear projection to width d, by encoder name.
    norms: RMSNorm after the projection, by encoder name.
    words: The `words` encoder, or None.
    encoders: (name, specification) pairs, in the order of the configuration.
    dtype: Dtype of unprojected embeddings.
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
    """Initialize the projections.

    Args:
      encoders: Specification of each text encoder, by name.
      d: Width of the output tokens.
      rngs: Random generators for the parameters.
      dtype: Compute dtype.
      as_they_are: Whether embeddings of pretrained encoders that already have width d are used
        without a projection and norm.
    """
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
    """Return the tokens of all encoders, concatenated in the order of the configuration.

    Args:
      text: Tokens by encoder name.
      prompts: Whether `text` has concatenated object prompts instead of one caption or motion
        prompt.

    Returns:
      Tokens, float [B, N, d], and their object sets, int32 [B, N].
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
  """Return captions as tokens that all objects may attend to.

  Args:
    embedding: Embeddings [B, N, D] or ids [B, N].
    length: int [B], number of tokens that are not padding.
  """
  counts = jnp.arange(embedding.shape[1]) < length[:, None]
  return Tokens(embedding, jnp.where(counts, EVERYONE, 0).astype(jnp.int32))


def prompt_tokens(embedding: Array, length: Array) -> Tokens:
  """Return object prompts as tokens [B, L * N, ...] that only their object may attend to.

  Slot l - 1 has the prompt of object l. No object may attend to an empty slot (length 0).

  Args:
    embedding: Embeddings [B, L, N, D] or ids [B, L, N].
    length: int [B, L], number of tokens that are not padding.
  """
  b, objects, n = embedding.shape[:3]
  counts = jnp.arange(n) < length[..., None]
  bits = jnp.left_shift(1, jnp.arange(1, objects + 1, dtype=jnp.int32))[None, :, None]
  bits = jnp.where(counts, bits, 0).astype(jnp.int32)
  return Tokens(
    embedding.reshape(b, objects * n, *embedding.shape[3:]), bits.reshape(b, objects * n)
  )


def total_tokens(encoders: Mapping[str, TextEncoderSpec], max_objects: int) -> tuple[int, int]:
  """Return the number of tokens of a caption, and of all object prompts, over all encoders."""
  captions = sum(e.length for e in encoders.values())
  return captions, max_objects * sum(e.prompt_length for e in encoders.values())


def pad(embedding: np.ndarray, length: int) -> np.ndarray:
  """Truncate or zero-pad an array [n, ...] to [length, ...]."""
  embedding = embedding[:length]
  return np.pad(embedding, [(0, length - len(embedding))] + [(0, 0)] * (embedding.ndim - 1))
