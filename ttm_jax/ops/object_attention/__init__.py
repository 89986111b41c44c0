"""Attention under one rule: token i attends to token j iff `q_bits[i] & k_bits[j] != 0`."""

from ttm_jax.ops.object_attention.api import IMPLEMENTATIONS, object_attention

__all__ = ['IMPLEMENTATIONS', 'object_attention']
