"""Object attention a block of queries at a time: memory linear in N, on any platform.

Each block is recomputed in the backward pass, so that no score outlives it.
"""

import jax
import jax.numpy as jnp

from ttm_jax.ops.object_attention import reference

Array = jax.Array

BLOCK = 512


def attention(q: Array, k: Array, v: Array, q_bits: Array, k_bits: Array) -> Array:
  """See `object_attention`; memory B x H x BLOCK x M in float32."""
  n = q.shape[1]
  blocks = -(-n // BLOCK)
  pad = blocks * BLOCK - n
  # A padded query has an empty object set: it attends to nothing.
  q = jnp.pad(q, ((0, 0), (0, pad), (0, 0), (0, 0)))
  q_bits = jnp.pad(q_bits, ((0, 0), (0, pad)))

  @jax.checkpoint
  def one(block):
    q_block, bits_block = block
    return reference.attention(q_block, k, v, bits_block, k_bits)

  def split(x):
    return jnp.moveaxis(x.reshape(x.shape[0], blocks, BLOCK, *x.shape[2:]), 1, 0)

  out = jnp.moveaxis(jax.lax.map(one, (split(q), split(q_bits))), 0, 1)
  return out.reshape(q.shape[0], blocks * BLOCK, *q.shape[2:])[:, :n]
