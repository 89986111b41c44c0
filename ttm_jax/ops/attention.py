"""Plain softmax attention, where every query may attend to every key."""

import jax
import jax.numpy as jnp

from ttm_jax.ops.object_attention.api import DENSE_PAIRS

Array = jax.Array


def attention(q: Array, k: Array, v: Array) -> Array:
  """Attention among all tokens; q [B, N, H, D], k and v [B, M, H, D] -> [B, N, H, D].

  Logits are scaled by 1/sqrt(D); softmax is float32.
  """
  if jax.default_backend() != 'cpu' or q.shape[1] * k.shape[1] > DENSE_PAIRS:
    return jax.nn.dot_product_attention(q, k, v)
  # XLA's CPU backend runs this plain form several times faster than the library call.
  scale = q.shape[-1] ** -0.5
  scores = jnp.einsum('bnhd,bmhd->bhnm', q * scale, k, preferred_element_type=jnp.float32)
  return jnp.einsum('bhnm,bmhd->bnhd', jax.nn.softmax(scores, -1).astype(v.dtype), v)
