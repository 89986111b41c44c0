"""How the tokens of text encoders enter a network, and the encoder `words` that is part of it."""

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
  """One text encoder as a network sees it.

  Attributes:
    name: the key of its texts in a condition.
    dim: width of its embeddings.
    length: tokens of a caption or motion prompt, padded.
    prompt_length: tokens of one object prompt, padded.
  """

  name: str
  dim: int
  length: int
  prompt_length: int


class TextProjector(nn.Module):
  """Texts of all encoders -> one sequence of tokens of width d.

  Args:
    encoders: a list, since JSON configurations do not keep the order of a dict.
    as_they_are: whether embeddings from outside that have this width already enter unprojected.
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
    """Text -> (float [B, N, d], bits int32 [B, N]), encoders in the order of the configuration.

    Args:
      dtype: of what enters unprojected.
      prompts: whether the text is the object prompts, one after the other.
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
  """A name as PyTorch takes it as part of a parameter's name."""
  return name.replace('.', '_')


class WordEncoder(nn.Module):
  """Word table + positions + one self-attention layer."""

  HEADS = 4

  def __init__(self, dim: int):
    super().__init__()
    # Of unit size: in a small table what words have in common soon outweighs what tells them
    # apart, and the network never begins to read.
    self.table = nn.Parameter(torch.randn(VOCABULARY, dim))
    self.positions = nn.Parameter(torch.randn(MAX_LENGTH, dim))
    self.norm = RMSNorm(dim)
    self.attention = Attention(dim, self.HEADS)

  def forward(self, ids: Tensor, bits: Tensor, length: int) -> Tensor:
    """ids and bits int32 [B, N], texts of `length` tokens one after the other -> [B, N, dim].

    Tokens attend to each other by their bits: a caption as a whole, each object prompt within
    itself, padding not at all.
    """
    position = torch.arange(ids.shape[1], device=ids.device) % length
    x = self.table[ids.long()] + self.positions[position]
    return x + self.attention(self.norm(x), None, AttentionMask.make(bits, bits))
