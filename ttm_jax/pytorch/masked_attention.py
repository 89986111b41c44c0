"""The two masked layers of Through-The-Mask, shared by all backbones (paper, section 3.3).

Masked self-attention (eq. 3): a token attends to the tokens of its own object, over all frames.
Masked cross-attention (eq. 1-2): a token attends to the prompts of the objects at its location; a
token without objects passes unchanged. Both are residual, with parameters of their own and a gate
that is 0 at the start, so that a pre-trained network keeps its function.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import AttentionMask


class ObjectMasks(NamedTuple):
  """The object sets of the tokens on one grid, and the projected object prompts.

  Attributes:
    order: int64 [B, N], the order by (owner, object set) in which the tokens lie, see `sort`.
    self_mask: token to tokens of the object that owns it.
    prompts: [B, M, d], the prompts of all objects, one after the other.
    prompt_mask: token to the prompts of all objects at its location.
  """

  order: Tensor
  self_mask: AttentionMask
  prompts: Tensor
  prompt_mask: AttentionMask


class MaskedLayer(nn.Module):
  """h + tanh(alpha) * attention(norm(h)), with a scalar gate (as in GLIGEN).

  Args:
    norm: a norm without time modulation.
    attention: called as (x, context, mask).

  Attributes:
    alpha: the gate, float32 [], under GLIGEN's name.
  """

  def __init__(self, norm: nn.Module, attention: nn.Module):
    super().__init__()
    self.norm = norm
    self.attention = attention
    self.alpha = nn.Parameter(torch.zeros(()))

  def forward(
    self, h: Tensor, context: Tensor | None = None, mask: AttentionMask | None = None
  ) -> Tensor:
    """h [B, N, d], context [B, M, D] (default h) -> [B, N, d]."""
    y = self.attention(self.norm(h), context, mask)
    return h + (self.alpha.float().tanh() * y.float()).to(h.dtype)


def masked_self_attention(layer: nn.Module, h: Tensor, objects: ObjectMasks | None) -> Tensor:
  """Self-attention within each object; among all tokens without object masks (TI2V baseline)."""
  return layer(h) if objects is None else layer(h, None, objects.self_mask)


def masked_cross_attention(
  layer: nn.Module, h: Tensor, objects: ObjectMasks | None, text: Tensor, text_mask: AttentionMask
) -> Tensor:
  """Cross-attention to the prompts at each token; to the caption without object masks (TI2V)."""
  if objects is None:
    return layer(h, text, text_mask)
  return layer(h, objects.prompts, objects.prompt_mask)
