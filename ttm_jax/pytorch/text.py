"""Projection of text embeddings to the width of a network, and the built-in encoder `words`."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from ttm_jax.text.word_ids import MAX_LENGTH, VOCABULARY

from .attention import AttentionMask
from .conditioning import Text
from .layers import Attention, Linear, RMSNorm

WORDS = 'words'


class EncoderConfig(TypedDict):
  """The outputs of one text encoder.

  Attributes:
    name: its key in the texts of a condition.
    dim: channels of its embeddings.
    length: number of tokens of a caption or motion prompt, with padding.
    prompt_length: number of tokens of one object prompt, with padding.
  """

  name: str
  dim: int
  length: int
  prompt_length: int


class TextProjector(nn.Module):
  """Project the texts of all encoders to one sequence of tokens of width d.

  Args:
    encoders: the text encoders; a list, since JSON configurations do not keep the order of a dict.
    d: channels of the output.
    as_they_are: whether embeddings of a pretrained encoder that already have width d are used
      without projection.
  """

  def __init__(self, encoders: Sequence[EncoderConfig], d: int, as_they_are: bool = False):
    super().__init__()
    projected = [e for e in encoders if e['name'] == WORDS or e['dim'] != d or not as_they_are]
    self.projections = nn.ModuleDict({key(e['name']): Linear(e['dim'], d) for e in projected})
    self.norms = nn.ModuleDict({key(e['name']): RMSNorm(d) for e in projected})
    words = [WordEncoder(e['dim']) for e in encoders if e['name'] == WORDS]
    self.words = words[0] if words else None
    self.encoders = list(encoders)

  def forward(self, text: Text, dtype: torch.dtype, prompts: bool = False) -> tuple[Tensor, Tensor]:
    """Return the tokens of all encoders, concatenated in the order of the configuration.

    Args:
      text: the tokens of each encoder.
      dtype: of embeddings that are not projected.
      prompts: whether the text holds the prompts of all objects, concatenated.

    Returns:
      (embeddings float [B, N, d], object sets int32 [B, N]).
    """
    sequences, bits = [], []
    for encoder in self.encoders:
      name = encoder['name']
      tokens = text[name]
      embedding = tokens.embedding
      if name == WORDS:
        assert self.words is not None
        each = encoder['prompt_length'] if prompts else encoder['length']
        embedding = self.words(embedding, tokens.bits, each)
      if key(name) in self.projections:
        embedding = self.norms[key(name)](self.projections[key(name)](embedding))
      else:
        embedding = embedding.to(dtype)
      sequences.append(embedding)
      bits.append(tokens.bits)
    return torch.cat(sequences, 1), torch.cat(bits, 1)


def key(name: str) -> str:
  """Return a name without dots, which PyTorch does not allow in module names."""
  return name.replace('.', '_')


class WordEncoder(nn.Module):
  """Word embeddings + position embeddings + one self-attention layer.

  Args:
    dim: channels of the embeddings.
  """

  HEADS = 4

  def __init__(self, dim: int):
    super().__init__()
    # Unit variance: with small embeddings, the component common to all words soon outweighs their
    # differences, and the network never learns to use the text.
    self.table = nn.Parameter(torch.randn(VOCABULARY, dim))
    self.positions = nn.Parameter(torch.randn(MAX_LENGTH, dim))
    self.norm = RMSNorm(dim)
    self.attention = Attention(dim, self.HEADS)

  def forward(self, ids: Tensor, bits: Tensor, length: int) -> Tensor:
    """Embed one or more concatenated texts of `length` tokens each.

    Tokens attend to tokens whose object sets intersect theirs. So the tokens of a caption attend to
    each other, those of an object prompt to the same prompt, and padding to nothing.

    Args:
      ids: token ids, int32 [B, N].
      bits: object sets, int32 [B, N].
      length: number of tokens of each text; N is a multiple of it.

    Returns:
      float [B, N, dim].
    """
    position = torch.arange(ids.shape[1], device=ids.device) % length
    x = self.table[ids.long()] + self.positions[position]
    return x + self.attention(self.norm(x), None, AttentionMask.make(bits, bits))
