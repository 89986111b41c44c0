"""Identical blocks as one stacked block: created by vmap, applied by scan."""

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
  """Return `count` blocks made by block(config, rngs) with stacked parameters, or None for 0."""
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
  """Apply stacked blocks in order: h <- block(h, context).

  Args:
    blocks: the result of `stack`; None returns h unchanged.
    h: [B, N, d].
    context: a tree of arrays that every block receives.
    remat: a name of `rematerialization.POLICIES`: what the forward pass saves of each block.
    unroll: number of blocks per loop iteration.

  Raises:
    ValueError: if `remat` is unknown.
  """
  if blocks is None:
    return h
  check(remat)
  graphdef, state = nnx.split(with_cast_kernels(blocks))

  def apply(h, layer, context):
    h = over_tokens(checkpoint_name(h, INPUT))
    return nnx.merge(graphdef, layer)(h, context)

  if remat != 'none':
    # The forward and backward passes are separate loops, so XLA cannot eliminate the recomputation
    # as a common subexpression. If one iteration holds all blocks, there is no loop, and
    # `prevent_cse` must keep XLA from merging the recomputed blocks with the original ones.
    depth = jax.tree.leaves(state)[0].shape[0]
    policy = POLICIES[remat]
    apply = jax.checkpoint(apply, policy=policy, prevent_cse=unroll >= depth)
  return jax.lax.scan(lambda h, layer: (apply(h, layer, context), None), h, state, unroll=unroll)[0]
