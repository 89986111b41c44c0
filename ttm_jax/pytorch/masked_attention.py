"""The two masked layers of Through-The-Mask, shared by all backbones (paper, section 3.3).

In masked self-attention (eq. 3), a token attends to the tokens of its own object, over all frames.
In masked cross-attention (eq. 1-2), it attends to the prompts of the objects at its location; a
token without objects passes unchanged. Both layers are residual. They have parameters of their own
and a gate that starts at 0, so that they do not change a pretrained network at first.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import AttentionMask, sort, sort_by_object
from .conditioning import TokenMasks


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

  @classmethod
  def make(
    cls, masks: TokenMasks, prompts: Tensor, prompt_bits: Tensor, implementation: str | None
  ) -> 'ObjectMasks':
    """Sort the tokens of a grid by object and return the masks in sorted order.

    Args:
      masks: the object sets on the grid.
      prompts: float [B, M, d], the projected prompts of all objects.
      prompt_bits: int32 [B, M], the object of each prompt token.
      implementation: of the attention, see `AttentionMask.make`.
    """
    region, present = masks.region.flatten(1), masks.present.flatten(1)
    order = sort_by_object(region, present)
    region, present = sort(region, order), sort(present, order)
    own = AttentionMask.make(region, region, implementation)
    return cls(order, own, prompts, AttentionMask.make(present, prompt_bits, implementation))


class MaskedLayer(nn.Module):
  """h + tanh(alpha) * attention(norm(h)), with a scalar gate (as in GLIGEN).

  Args:
    norm: normalization without time modulation.
    attention: attention layer, called as (x, context, mask), and with a rotation if one is given.

  Attributes:
    alpha: float32 scalar, the gate before tanh (GLIGEN's name); starts at 0.
  """

  def __init__(self, norm: nn.Module, attention: nn.Module):
    super().__init__()
    self.norm = norm
    self.attention = attention
    self.alpha = nn.Parameter(torch.zeros(()))

  def forward(
    self,
    h: Tensor,
    context: Tensor | None = None,
    mask: AttentionMask | None = None,
    rotation: tuple[Tensor, Tensor] | None = None,
  ) -> Tensor:
    """Apply the layer to tokens h [B, N, d]; the result is like h.

    Args:
      h: the tokens.
      context: keys and values, float [B, M, D]; None for self-attention.
      mask: the allowed pairs; None for all.
      rotation: rotary position embedding, for backbones that have one.
    """
    rotated = {} if rotation is None else {'rotation': rotation}
    y = self.attention(self.norm(h), context, mask, **rotated)
    return h + (self.alpha.float().tanh() * y.float()).to(h.dtype)


def masked_self_attention(
  layer: nn.Module,
  h: Tensor,
  objects: ObjectMasks | None,
  rotation: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
  """Apply masked self-attention: h [B, N, d], sorted as `objects.order`; the result is like h.

  If `objects` is None, every token attends to all tokens (the TI2V baseline).
  """
  return layer(h, None, None if objects is None else objects.self_mask, rotation)


def masked_cross_attention(
  layer: nn.Module,
  h: Tensor,
  objects: ObjectMasks | None,
  text: Tensor,
  text_mask: AttentionMask | None,
) -> Tensor:
  """Apply masked cross-attention to tokens h [B, N, d]; the result is like h.

  Each token attends to the prompts of the objects at its location. If `objects` is None, every
  token attends to the caption `text` [B, M, d] under `text_mask` (the TI2V baseline).
  """
  if objects is None:
    return layer(h, text, text_mask)
  return layer(h, objects.prompts, objects.prompt_mask)
