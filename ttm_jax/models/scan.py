"""Equal blocks as one stacked block: created by vmap, applied by scan."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from ttm_jax.errors import nearest

Array = jax.Array

REMAT_POLICIES: dict[str, Any] = {
  'none': jax.checkpoint_policies.everything_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'full': jax.checkpoint_policies.nothing_saveable,
}


def stack(block: Callable[..., nnx.Module], count: int, config: Any, rngs: nnx.Rngs):
  """`count` blocks made by block(config, rngs), their parameters stacked; None for none."""
  if not count:
    return None

  @nnx.split_rngs(splits=count)
  @nnx.vmap
  def create(rngs):
    return block(config, rngs)

  return create(rngs)


def scan_blocks(
  blocks: nnx.Module | None, h: Array, context: Any, remat: str, unroll: int = 1
) -> Array:
  """Applies stacked blocks one after the other: h <- block(h, context).

  Args:
    remat: a name of `REMAT_POLICIES`: what is kept of a block for the backward pass.
    unroll: how many blocks one trip of the loop holds.
  """
  if blocks is None:
    return h
  if remat not in REMAT_POLICIES:
    raise ValueError(
      f'remat {remat!r} must be one of {list(REMAT_POLICIES)}{nearest(remat, REMAT_POLICIES)}'
    )
  graphdef, state = nnx.split(blocks)

  def apply(h, layer, context):
    return nnx.merge(graphdef, layer)(h, context)

  if remat != 'none':
    apply = jax.checkpoint(apply, policy=REMAT_POLICIES[remat], prevent_cse=False)
  return jax.lax.scan(lambda h, layer: (apply(h, layer, context), None), h, state, unroll=unroll)[0]
