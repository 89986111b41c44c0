"""Plain softmax attention, where every query may attend to every key."""

import functools

import jax
import jax.numpy as jnp

from ttm_jax.ops.object_attention import Case, choose, object_attention
from ttm_jax.parallel.mesh import platform
from ttm_jax.parallel.sharded_attention import over_heads

Array = jax.Array

# What cuDNN's flash attention takes on every GPU that it runs on.
CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
CUDNN_WIDEST = 128


def attention(q: Array, k: Array, v: Array) -> Array:
  """Attention among all tokens; q [B, N, H, D], k and v [B, M, H, D] -> [B, N, H, D].

  Logits are scaled by 1/sqrt(D); softmax is float32. On a mesh, see `over_heads`.
  """
  where, d = platform(), q.shape[3]
  if where == 'gpu' and q.dtype in CUDNN_DTYPES and d % 8 == 0 and d <= CUDNN_WIDEST:
    # XLA's own attention would keep all scores.
    cudnn = functools.partial(jax.nn.dot_product_attention, implementation='cudnn')
    return over_heads(cudnn, q, k, v)
  if choose(Case(q.shape[1], k.shape[1], d, q.dtype, where)) == 'reference':
    return over_heads(_dense, q, k, v)
  # The kernel of object attention, all of whose blocks are full: it computes no mask.
  q_bits, k_bits = (jnp.ones(x.shape[:2], jnp.int32) for x in (q, k))
  return object_attention(q, k, v, q_bits, k_bits)


def _dense(q: Array, k: Array, v: Array) -> Array:
  """XLA's CPU backend runs this several times faster than `jax.nn.dot_product_attention`."""
  scale = q.shape[-1] ** -0.5
  scores = jnp.einsum('bnhd,bmhd->bhnm', q * scale, k, preferred_element_type=jnp.float32)
  return jnp.einsum('bhnm,bmhd->bnhd', jax.nn.softmax(scores, -1).astype(v.dtype), v)
