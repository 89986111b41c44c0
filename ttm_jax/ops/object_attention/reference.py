"""Dense object attention: the reference that tests compare every implementation with."""

import jax
import jax.numpy as jnp

Array = jax.Array

# Finite, so that a row without an allowed key does not produce NaN from infinities.
MASKED = -1e30


def attention(q: Array, k: Array, v: Array, q_bits: Array, k_bits: Array) -> Array:
  """Compute `object_attention` from all B x H x N x M scores, stored in float32."""
  allowed = (q_bits[:, None, :, None] & k_bits[:, None, None, :]) != 0
  scale = q.shape[-1] ** -0.5
  scores = jnp.einsum('bnhd,bmhd->bhnm', q * scale, k, preferred_element_type=jnp.float32)
  scores = jnp.where(allowed, scores, MASKED)
  top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.where(allowed, jnp.exp(scores - top), 0.0)
  total = weights.sum(-1, keepdims=True)
  weights = weights / jnp.where(total == 0, 1.0, total)
  return jnp.einsum('bhnm,bmhd->bnhd', weights.astype(v.dtype), v)
