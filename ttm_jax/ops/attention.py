"""Dense softmax attention, in which every query attends to every key."""

import functools

import jax
import jax.numpy as jnp

from ttm_jax.ops.object_attention import Case, choose, object_attention
from ttm_jax.parallel.mesh import platform
from ttm_jax.parallel.sharded_attention import over_heads

Array = jax.Array

# Dtypes and the largest head dimension that cuDNN's flash attention supports on all its GPUs.
CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
CUDNN_WIDEST = 128


def attention(q: Array, k: Array, v: Array) -> Array:
  """Compute attention among all tokens.

  Logits are scaled by 1/sqrt(D). The softmax is computed in float32. Under a mesh, see
  `over_heads`.

  Args:
    q: [B, N, H, D].
    k, v: [B, M, H, D].

  Returns:
    [B, N, H, D].
  """
  where, d = platform(), q.shape[3]
  if where == 'gpu' and q.dtype in CUDNN_DTYPES and d % 8 == 0 and d <= CUDNN_WIDEST:
    # XLA's own attention would store all scores.
    cudnn = functools.partial(jax.nn.dot_product_attention, implementation='cudnn')
    return over_heads(cudnn, q, k, v)
  if choose(Case(q.shape[1], k.shape[1], d, q.dtype, where)) == 'reference':
    return over_heads(_dense, q, k, v)
  # Object attention with only full blocks; the kernel computes no mask for these.
  q_bits, k_bits = (jnp.ones(x.shape[:2], jnp.int32) for x in (q, k))
  return object_attention(q, k, v, q_bits, k_bits)


def _dense(q: Array, k: Array, v: Array) -> Array:
  """Compute attention with all scores stored.

  XLA's CPU backend runs this several times faster than `jax.nn.dot_product_attention`.
  """
  scale = q.shape[-1] ** -0.5
  scores = jnp.einsum('bnhd,bmhd->bhnm', q * scale, k, preferred_element_type=jnp.float32)
  return jnp.einsum('bhnm,bmhd->bnhd', jax.nn.softmax(scores, -1).astype(v.dtype), v)
