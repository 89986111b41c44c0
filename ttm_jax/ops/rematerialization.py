"""Rematerialization policies: which values of a layer are saved for the backward pass."""

from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ttm_jax.errors import nearest

Array = jax.Array

# Checkpoint name of the input of a layer, which is all that is saved if the layer is recomputed.
INPUT = 'layer_input'
# Checkpoint name of the attention results that its backward pass needs.
ATTENDED = 'attended'
# The primitive of cuDNN's attention, whose results have no checkpoint name.
_CUDNN = 'dot_product_attention_fwd_wrapper'


def _products(primitive: Any, *args: Any, **params: Any) -> Any:
  """Save products with weights and the results of attention, which are also products."""
  policies = jax.checkpoint_policies
  products = policies.save_from_both_policies(
    policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(ATTENDED)
  )
  return primitive.name == _CUDNN or products(primitive, *args, **params)


# From the fastest to the one with the least device memory.
POLICIES: dict[str, Any] = {
  'none': jax.checkpoint_policies.everything_saveable,
  'dots': _products,
  'full': jax.checkpoint_policies.nothing_saveable,
  'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[INPUT],
    offload_src='device',
    offload_dst='pinned_host',
  ),
}


def check(name: str) -> None:
  """Raise ValueError if the name is not in `POLICIES`."""
  if name not in POLICIES:
    raise ValueError(f'remat {name!r} must be one of {list(POLICIES)}{nearest(name, POLICIES)}')


def apply(remat: str, layer: nnx.Module, h: Array, *known: Any) -> Array:
  """Return layer(h, *known), rematerialized in the backward pass by a policy.

  Args:
    remat: a name of `POLICIES`.
    layer: a module whose call changes no state.
    h: the input of the layer.
    known: further arguments, trees of arrays.
  """
  if remat == 'none':
    return layer(h, *known)
  graphdef, state = nnx.split(layer)

  def again(state: Any, h: Array, *known: Any) -> Array:
    return nnx.merge(graphdef, state)(checkpoint_name(h, INPUT), *known)

  return jax.checkpoint(again, policy=POLICIES[remat])(state, h, *known)
