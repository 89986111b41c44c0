"""What the backward pass keeps of a layer, and what it computes again."""

from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ttm_jax.errors import nearest

Array = jax.Array

# The name of what a layer is given: all that is kept of it where the layer is recomputed.
INPUT = 'layer_input'
# The name of what attention has computed, as far as its backward pass asks for it.
ATTENDED = 'attended'
# cuDNN's attention, whose results bear no name.
_CUDNN = 'dot_product_attention_fwd_wrapper'


def _products(primitive: Any, *args: Any, **params: Any) -> Any:
  """Keeps products with weights, and what attention has computed, which is products too."""
  policies = jax.checkpoint_policies
  products = policies.save_from_both_policies(
    policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(ATTENDED)
  )
  return primitive.name == _CUDNN or products(primitive, *args, **params)


# From the fastest to the smallest.
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
  """Raises ValueError for a name that is not in `POLICIES`."""
  if name not in POLICIES:
    raise ValueError(f'remat {name!r} must be one of {list(POLICIES)}{nearest(name, POLICIES)}')


def apply(remat: str, layer: nnx.Module, h: Array, *known: Any) -> Array:
  """layer(h, *known), of which the backward pass keeps what the policy says.

  Args:
    remat: a name of `POLICIES`.
    layer: a module that changes nothing when it is called.
    known: trees of arrays.
  """
  if remat == 'none':
    return layer(h, *known)
  graphdef, state = nnx.split(layer)

  def again(state: Any, h: Array, *known: Any) -> Array:
    return nnx.merge(graphdef, state)(checkpoint_name(h, INPUT), *known)

  return jax.checkpoint(again, policy=POLICIES[remat])(state, h, *known)
