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

Array = jax.Array


@flax.struct.dataclass
class Masks:
  """The object sets of the tokens on one grid, and the encoded object prompts.

  Attributes:
    region: int32 [B, N], the one object that owns each token.
    present: int32 [B, N], all objects at each token.
    prompts: [B, M, d].
    prompt_bits: int32 [B, M], whose prompt each prompt token is.
  """

  region: Array
  present: Array
  prompts: Array
  prompt_bits: Array


class GatedResidual(nnx.Module):
  """h + tanh(gate) * attention(norm(h)), with a scalar gate (as in GLIGEN).

  Attributes:
    norm: a norm without time modulation.
    attention: called as (x, context, q_bits, k_bits).
    gate: float32 [], 0 at the start.
  """

  def __init__(self, norm: Callable, attention: nnx.Module):
    self.norm = norm
    self.attention = attention
    self.gate = nnx.Param(jnp.zeros((), jnp.float32))

  def __call__(self, h: Array, context=None, q_bits=None, k_bits=None) -> Array:
    y = self.attention(self.norm(h), context, q_bits, k_bits)
    return h + (jnp.tanh(self.gate[...]) * y.astype(jnp.float32)).astype(h.dtype)


def masked_self(layer: GatedResidual, h: Array, masks: Masks | None) -> Array:
  """Self-attention within objects; among all tokens where there are no masks (TI2V)."""
  if masks is None:
    return layer(h)
  return layer(h, None, masks.region, masks.region)


def masked_cross(
  layer: GatedResidual, h: Array, masks: Masks | None, text: Array, text_bits: Array
) -> Array:
  """Cross-attention to the prompts at each token; to the whole text without masks (TI2V)."""
  if masks is None:
    return layer(h, text, everyone(h), text_bits)
  return layer(h, masks.prompts, masks.present, masks.prompt_bits)


def everyone(h: Array) -> Array:
  """The object set of a token that may read any text: int32 [B, N], all bits."""
  return jnp.full(h.shape[:2], -1, jnp.int32)
