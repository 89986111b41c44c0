"""Equal blocks as one stacked block: created by vmap, applied by scan."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ttm_jax.nn.linear import with_cast_kernels
from ttm_jax.ops.rematerialization import INPUT, POLICIES, check
from ttm_jax.parallel.sharded_attention import over_tokens

Array = jax.Array


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
    remat: a name of `remat.POLICIES`: what is kept of a block for the backward pass.
    unroll: how many blocks one trip of the loop holds.
  """
  if blocks is None:
    return h
  check(remat)
  graphdef, state = nnx.split(with_cast_kernels(blocks))

  def apply(h, layer, context):
    h = over_tokens(checkpoint_name(h, INPUT))
    return nnx.merge(graphdef, layer)(h, context)

  if remat != 'none':
    # Forward and backward pass are two loops, between which XLA finds nothing in common. Where all
    # blocks are one trip there is no loop, and it must be kept from taking the recomputed blocks
    # for the first ones.
    depth = jax.tree.leaves(state)[0].shape[0]
    policy = POLICIES[remat]
    apply = jax.checkpoint(apply, policy=policy, prevent_cse=unroll >= depth)
  return jax.lax.scan(lambda h, layer: (apply(h, layer, context), None), h, state, unroll=unroll)[0]
