"""The two masked layers of Through-The-Mask, shared by all backbones (paper, section 3.3).

Masked self-attention (eq. 3): a token attends to the tokens of its own object, over all frames.
Masked cross-attention (eq. 1-2): a token attends to the prompts of the objects at its location; a
token without objects passes unchanged. Both are residual, with parameters of their own and a gate
that is 0 at the start, so that a pre-trained network keeps its function.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.nn.attention import AttentionMask

Array = jax.Array


@flax.struct.dataclass
class ObjectMasks:
  """The object sets of the tokens on one grid, and the projected object prompts.

  Attributes:
    order: int32 [B, N], the order by (owner, object set) in which the tokens lie, see `sort`.
    self_mask: token to tokens of the object that owns it.
    prompts: [B, M, d], the prompts of all objects, one after the other.
    prompt_mask: token to the prompts of all objects at its location.
  """

  order: Array
  self_mask: AttentionMask
  prompts: Array
  prompt_mask: AttentionMask


class MaskedLayer(nnx.Module):
  """h + tanh(gate) * attention(norm(h)), with a scalar gate (as in GLIGEN).

  Attributes:
    norm: a norm without time modulation.
    attention: called as (x, context, mask).
    gate: float32 [], 0 at the start.
  """

  def __init__(self, norm: Callable, attention: nnx.Module):
    self.norm = norm
    self.attention = attention
    self.gate = nnx.Param(jnp.zeros((), jnp.float32))

  def __call__(
    self, h: Array, context: Array | None = None, mask: AttentionMask | None = None
  ) -> Array:
    """h [B, N, d], context [B, M, D] (default h) -> [B, N, d]."""
    y = self.attention(self.norm(h), context, mask)
    return h + (jnp.tanh(self.gate[...]) * y.astype(jnp.float32)).astype(h.dtype)


def masked_self_attention(layer: MaskedLayer, h: Array, objects: ObjectMasks | None) -> Array:
  """Self-attention within each object; among all tokens without object masks (TI2V baseline)."""
  return layer(h) if objects is None else layer(h, None, objects.self_mask)


def masked_cross_attention(
  layer: MaskedLayer, h: Array, objects: ObjectMasks | None, text: Array, text_mask: AttentionMask
) -> Array:
  """Cross-attention to the prompts at each token; to the caption without object masks (TI2V)."""
  if objects is None:
    return layer(h, text, text_mask)
  return layer(h, objects.prompts, objects.prompt_mask)
