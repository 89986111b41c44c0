"""The two extra layers of the masked blocks, shared by all backbones (paper, section 3.3).

Masked self-attention: a token attends to the tokens of its own object, over all frames (eq. 3).
Masked cross-attention: a token attends to the prompts of the objects at its place (eq. 1-2); where
there is none, it passes unchanged. Both are residual, with their own parameters and a gate that is
closed at the start, so that a pre-trained network keeps its function.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import AttentionMask


class Masks(NamedTuple):
  """The object sets of the tokens on one grid, and the encoded object prompts.

  Attributes:
    order: int64 [B, N], the order by (region, object set) that the tokens are in, see `sort`.
    own: each token and the tokens of the one object that owns it.
    prompts: [B, M, d].
    prompted: each token and the prompts of all objects at its place.
  """

  order: Tensor
  own: AttentionMask
  prompts: Tensor
  prompted: AttentionMask


class GatedResidual(nn.Module):
  """h + tanh(gate) * attention(norm(h)), with a scalar gate (as in GLIGEN).

  Args:
    norm: a norm without time modulation.
    attention: called as (x, context, pairs).

  Attributes:
    alpha: the gate, float32 [], under GLIGEN's name for it.
  """

  def __init__(self, norm: nn.Module, attention: nn.Module):
    super().__init__()
    self.norm = norm
    self.attention = attention
    self.alpha = nn.Parameter(torch.zeros(()))

  def forward(
    self, h: Tensor, context: Tensor | None = None, pairs: AttentionMask | None = None
  ) -> Tensor:
    y = self.attention(self.norm(h), context, pairs)
    return h + (self.alpha.float().tanh() * y.float()).to(h.dtype)


def masked_self(layer: nn.Module, h: Tensor, masks: Masks | None) -> Tensor:
  """Self-attention within objects; among all tokens where there are no masks (TI2V)."""
  return layer(h) if masks is None else layer(h, None, masks.own)


def masked_cross(
  layer: nn.Module, h: Tensor, masks: Masks | None, text: Tensor, read: AttentionMask
) -> Tensor:
  """Cross-attention to the prompts at each token; to the whole text without masks (TI2V)."""
  if masks is None:
    return layer(h, text, read)
  return layer(h, masks.prompts, masks.prompted)
