"""The two masked layers of Through-The-Mask, shared by all backbones (paper, section 3.3).

Masked self-attention (eq. 3): a token attends to the tokens of its own object, over all frames.
Masked cross-attention (eq. 1-2): a token attends to the prompts of the objects at its location. A
token without objects passes unchanged. Both layers are residual, with their own parameters and a
gate, and initialized to add nothing. A pretrained network therefore computes the same function at
the start.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.conditioning import TokenMasks
from ttm_jax.nn.attention import Attention, AttentionMask
from ttm_jax.nn.rope import Rotation
from ttm_jax.ops.object_attention import sort, sort_by_object

Array = jax.Array


@flax.struct.dataclass
class ObjectMasks:
  """The object sets of the tokens on one grid, and the projected object prompts.

  Attributes:
    order: int32 [B, N], the permutation that sorts the tokens by (owner, object set), see `sort`.
    self_mask: each token to the tokens of the object that owns it, in this order.
    prompts: [B, M, d], the prompts of all objects, concatenated.
    prompt_mask: each token to the prompts of all objects at its location.
  """

  order: Array
  self_mask: AttentionMask
  prompts: Array
  prompt_mask: AttentionMask

  @classmethod
  def make(
    cls, masks: TokenMasks, prompts: Array, prompt_bits: Array, head_dim: int, dtype: str
  ) -> 'ObjectMasks':
    """Sort the tokens of a grid by object and return the masks in sorted order.

    Args:
      masks: the object sets on the grid.
      prompts: [B, M, d], the projected prompts of all objects.
      prompt_bits: int32 [B, M], the object of each prompt token.
      head_dim: see `AttentionMask.make`.
      dtype: see `AttentionMask.make`.
    """
    region, present = (x.reshape(x.shape[0], -1) for x in (masks.region, masks.present))
    order = sort_by_object(region, present)
    region, present = sort(region, order), sort(present, order)
    return cls(
      order,
      AttentionMask.make(region, region, head_dim, dtype),
      prompts,
      AttentionMask.make(present, prompt_bits, head_dim, dtype),
    )


# How a masked layer is initialized to add nothing, see `MaskedLayer`.
MASKED_INITS = ('gate', 'output')


class MaskedLayer(nnx.Module):
  """h + tanh(gate) * attention(norm(h)), with a scalar gate (as in GLIGEN).

  The attention begins as a copy of its unmasked sibling. Of the two ways to let it add nothing at
  first, 'gate' sets the gate to 0 (GLIGEN), and 'output' opens the gate and sets the output
  projection to 0. No parameter behind a closed gate learns, and a scalar moves by no more than the
  learning rate per step; its own rate may be higher (`optimizer.gate_rate`). docs/evidence.md
  compares them.

  Attributes:
    norm: a norm without time modulation.
    attention: called as (x, context, mask), and with a rotation if one is given.
    gate: float32 [].
  """

  def __init__(self, norm: Callable, sibling: Attention, init: str):
    """Copy the sibling.

    Args:
      norm: see above.
      sibling: the unmasked attention to start from.
      init: a name of MASKED_INITS.

    Raises:
      ValueError: `init` is unknown.
    """
    if init not in MASKED_INITS:
      raise ValueError(f'masked_init must be one of {MASKED_INITS}, got {init!r}')
    self.norm = norm
    self.attention = nnx.clone(sibling)
    self.gate = nnx.Param(jnp.full((), 1.0 if init == 'output' else 0.0, jnp.float32))
    if init == 'output':
      out = self.attention.out
      # New parameters, since those of a copy may not have been drawn yet (`nn.initial`).
      out.kernel = nnx.Param(jnp.zeros(out.kernel.shape, jnp.float32))
      if out.bias is not None:
        out.bias = nnx.Param(jnp.zeros(out.bias.shape, jnp.float32))

  def __call__(
    self,
    h: Array,
    context: Array | None = None,
    mask: AttentionMask | None = None,
    rotation: Rotation | None = None,
  ) -> Array:
    """Map h [B, N, d] to [B, N, d]; context is [B, M, D], or h if None."""
    rotated = {} if rotation is None else {'rotation': rotation}
    y = self.attention(self.norm(h), context, mask, **rotated)
    return h + (jnp.tanh(self.gate[...]) * y.astype(jnp.float32)).astype(h.dtype)


def masked_self_attention(
  layer: MaskedLayer, h: Array, objects: ObjectMasks | None, rotation: Rotation | None = None
) -> Array:
  """Apply self-attention within each object, or among all tokens if objects is None (TI2V).

  Args:
    layer: the masked layer.
    h: [B, N, d], in the order of `objects.order`.
    objects: object sets; None for the TI2V baseline.
    rotation: rotary position embedding, for backbones that have one.

  Returns:
    [B, N, d].
  """
  return layer(h, None, None if objects is None else objects.self_mask, rotation)


def masked_cross_attention(
  layer: MaskedLayer,
  h: Array,
  objects: ObjectMasks | None,
  text: Array,
  text_mask: AttentionMask | None,
) -> Array:
  """Apply cross-attention to the prompts at each token, or to the caption if objects is None.

  Args:
    layer: the masked layer.
    h: [B, N, d].
    objects: object sets and prompts; None for the TI2V baseline.
    text: [B, M, d], the projected caption.
    text_mask: which tokens may attend to which caption tokens; all if None.

  Returns:
    [B, N, d].
  """
  if objects is None:
    return layer(h, text, text_mask)
  return layer(h, objects.prompts, objects.prompt_mask)
