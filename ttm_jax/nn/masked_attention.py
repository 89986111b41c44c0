"""The two extra layers of the masked blocks, shared by all backbones (paper, section 3.3).

Masked self-attention: a token attends to the tokens of its own object, over all frames (eq. 3).
Masked cross-attention: a token attends to the prompts of the objects at its place (eq. 1-2); where
there is none, it passes unchanged. Both are residual, with their own parameters and a gate that is
closed at the start, so that a pre-trained network keeps its function.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.nn.layers import AttentionMask

Array = jax.Array


@flax.struct.dataclass
class Masks:
  """The object sets of the tokens on one grid, and the encoded object prompts.

  Attributes:
    order: int32 [B, N], the order by (region, object set) that the tokens are in, see `sort`.
    own: each token and the tokens of the one object that owns it.
    prompts: [B, M, d].
    prompted: each token and the prompts of all objects at its place.
  """

  order: Array
  own: AttentionMask
  prompts: Array
  prompted: AttentionMask


class GatedResidual(nnx.Module):
  """h + tanh(gate) * attention(norm(h)), with a scalar gate (as in GLIGEN).

  Attributes:
    norm: a norm without time modulation.
    attention: called as (x, context, pairs).
    gate: float32 [], 0 at the start.
  """

  def __init__(self, norm: Callable, attention: nnx.Module):
    self.norm = norm
    self.attention = attention
    self.gate = nnx.Param(jnp.zeros((), jnp.float32))

  def __call__(
    self, h: Array, context: Array | None = None, pairs: AttentionMask | None = None
  ) -> Array:
    y = self.attention(self.norm(h), context, pairs)
    return h + (jnp.tanh(self.gate[...]) * y.astype(jnp.float32)).astype(h.dtype)


def masked_self(layer: GatedResidual, h: Array, masks: Masks | None) -> Array:
  """Self-attention within objects; among all tokens where there are no masks (TI2V)."""
  return layer(h) if masks is None else layer(h, None, masks.own)


def masked_cross(
  layer: GatedResidual, h: Array, masks: Masks | None, text: Array, read: AttentionMask
) -> Array:
  """Cross-attention to the prompts at each token; to the whole text without masks (TI2V)."""
  if masks is None:
    return layer(h, text, read)
  return layer(h, masks.prompts, masks.prompted)
