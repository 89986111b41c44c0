"""Code shared by all block-sparse kernels: layout, padding to whole blocks, and the VJP.

A kernel is a pair of functions over arrays [B, H, N, D]. If `Kernel.whole` is set, N and M are
padded to whole blocks. Object sets are always padded.

    forward(q, k, v, q_bits, k_bits, block_mask, scale) -> (y, lse)
    backward(q, k, v, q_bits, k_bits, block_mask, scale, lse, delta, dy) -> (dq, dk, dv)

Logits are scale * q k. `lse`, float32 [B, H, N], is the log-sum-exp of each row of logits. For a
row without allowed keys it is EMPTY, so that exp(logit - lse) is exactly 0. `delta`, float32 [B, H,
N], is the sum of y * dy over D (as in FlashAttention-2, section 3.1).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ttm_jax.ops.object_attention.blocks import BlockMask, fill_up
from ttm_jax.ops.rematerialization import ATTENDED

Array = jax.Array

# Finite, so that masked logits and empty rows do not produce NaN from infinities.
MASKED = -1e30
EMPTY = 1e30


class Kernel(NamedTuple):
  """A block-sparse implementation, see the module docstring.

  Attributes:
    forward, backward: the two passes.
    whole: whether q, k and v must be padded to whole blocks.
  """

  forward: Callable[..., tuple[Array, Array]]
  backward: Callable[..., tuple[Array, Array, Array]]
  whole: bool = True


def attention(
  kernel: Kernel, q: Array, k: Array, v: Array, q_bits: Array, k_bits: Array, block_mask: BlockMask
) -> Array:
  """Compute object attention with a kernel.

  Args:
    kernel: the implementation.
    q: [B, N, H, D].
    k, v: [B, M, H, D].
    q_bits: int32 [B, N].
    k_bits: int32 [B, M].
    block_mask: the block lists of these object sets.

  Returns:
    [B, N, H, D], in the dtype of v.
  """
  n, scale = q.shape[1], q.shape[-1] ** -0.5
  block_q, block_k = block_mask.block

  def heads_first(x, block):
    return jnp.swapaxes(fill_up(x, block, 1) if kernel.whole else x, 1, 2)

  y = _attend(
    kernel,
    scale,
    heads_first(q, block_q),
    heads_first(k, block_k),
    heads_first(v, block_k),
    fill_up(q_bits, block_q, 1),
    fill_up(k_bits, block_k, 1),
    block_mask,
  )
  return jnp.swapaxes(y, 1, 2)[:, :n]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kernel, scale, q, k, v, q_bits, k_bits, block_mask):
  return kernel.forward(q, k, v, q_bits, k_bits, block_mask, scale)[0]


def _forward(kernel, scale, q, k, v, q_bits, k_bits, block_mask):
  y, lse = checkpoint_name(kernel.forward(q, k, v, q_bits, k_bits, block_mask, scale), ATTENDED)
  return y, (q, k, v, q_bits, k_bits, block_mask, y, lse)


def _backward(kernel, scale, saved, dy):
  *inputs, y, lse = saved
  delta = jnp.einsum('bhnd,bhnd->bhn', y, dy, preferred_element_type=jnp.float32)
  return *kernel.backward(*inputs, scale, lse, delta, dy), None, None, None


_attend.defvjp(_forward, _backward)
