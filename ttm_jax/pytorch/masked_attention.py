"""The two masked layers of Through-The-Mask, shared by all backbones (paper, section 3.3).

In masked self-attention (eq. 3), a token attends to the tokens of its own object, over all frames.
In masked cross-attention (eq. 1-2), it attends to the prompts of the objects at its location; a
token without objects passes unchanged. Both layers are residual. They have parameters of their own
and a gate that starts at 0, so that they do not change a pretrained network at first.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import AttentionMask


class ObjectMasks(NamedTuple):
  """The object sets of the tokens on one grid, and the projected object prompts.

  Attributes:
    order: int64 [B, N], the order of the tokens: sorted by (region, present), see `sort`.
    self_mask: allows each token the tokens of its own object.
    prompts: float [B, M, d], the prompts of all objects, concatenated along M.
    prompt_mask: allows each token the prompts of all objects at its location.
  """

  order: Tensor
  self_mask: AttentionMask
  prompts: Tensor
  prompt_mask: AttentionMask


class MaskedLayer(nn.Module):
  """h + tanh(alpha) * attention(norm(h)), with a scalar gate (as in GLIGEN).

  Args:
    norm: normalization without time modulation.
    attention: attention layer, called as (x, context, mask).

  Attributes:
    alpha: float32 scalar, the gate before tanh (GLIGEN's name); starts at 0.
  """

  def __init__(self, norm: nn.Module, attention: nn.Module):
    super().__init__()
    self.norm = norm
    self.attention = attention
    self.alpha = nn.Parameter(torch.zeros(()))

  def forward(
    self, h: Tensor, context: Tensor | None = None, mask: AttentionMask | None = None
  ) -> Tensor:
    """Apply the layer to tokens h [B, N, d]; the result is like h.

    Args:
      h: the tokens.
      context: keys and values, float [B, M, D]; None for self-attention.
      mask: the allowed pairs; None for all.
    """
    y = self.attention(self.norm(h), context, mask)
    return h + (self.alpha.float().tanh() * y.float()).to(h.dtype)


def masked_self_attention(layer: nn.Module, h: Tensor, objects: ObjectMasks | None) -> Tensor:
  """Apply masked self-attention: h [B, N, d], sorted as `objects.order`; the result is like h.

  If `objects` is None, every token attends to all tokens (the TI2V baseline).
  """
  return layer(h) if objects is None else layer(h, None, objects.self_mask)


def masked_cross_attention(
  layer: nn.Module, h: Tensor, objects: ObjectMasks | None, text: Tensor, text_mask: AttentionMask
) -> Tensor:
  """Apply masked cross-attention to tokens h [B, N, d]; the result is like h.

  Each token attends to the prompts of the objects at its location. If `objects` is None, every
  token attends to the caption `text` [B, M, d] under `text_mask` (the TI2V baseline).
  """
  if objects is None:
    return layer(h, text, text_mask)
  return layer(h, objects.prompts, objects.prompt_mask)
