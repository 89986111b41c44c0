"""Object attention: token i attends to token j iff `q_bits[i] & k_bits[j] != 0`."""

from ttm_jax.ops.object_attention.api import (
  IMPLEMENTATIONS,
  Case,
  choose,
  make_block_mask,
  object_attention,
)
from ttm_jax.ops.object_attention.blocks import BlockMask
from ttm_jax.ops.object_attention.order import sort, sort_by_object, unsort

__all__ = [
  'IMPLEMENTATIONS',
  'BlockMask',
  'Case',
  'choose',
  'make_block_mask',
  'object_attention',
  'sort',
  'sort_by_object',
  'unsort',
]
