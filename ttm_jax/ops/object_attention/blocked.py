"""What all block-sparse kernels share: the layout, the fill-up of blocks, and the derivative rule.

A kernel is a pair of functions over arrays [B, H, N, D] whose N and M are whole blocks (if it asks
for that; object sets always are):

    forward(q, k, v, q_bits, k_bits, block_mask, scale) -> (y, lse)
    backward(q, k, v, q_bits, k_bits, block_mask, scale, lse, delta, dy) -> (dq, dk, dv)

Logits are scale * q k. `lse`, float32 [B, H, N], is the logarithm of each row's sum of
exponentials, and EMPTY for a row without keys, so that exp(logit - lse) is exactly 0 there;
`delta`, float32 [B, H, N], is the sum of y dy over D (as in FlashAttention-2, section 3.1).
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

# Finite, so that masked logits and empty rows have no infinities to turn into NaN.
MASKED = -1e30
EMPTY = 1e30


class Kernel(NamedTuple):
  """One implementation, as described above.

  Attributes:
    forward, backward: the two passes.
    whole: whether q, k and v have to be filled up to whole blocks.
  """

  forward: Callable[..., tuple[Array, Array]]
  backward: Callable[..., tuple[Array, Array, Array]]
  whole: bool = True


def attention(
  kernel: Kernel, q: Array, k: Array, v: Array, q_bits: Array, k_bits: Array, block_mask: BlockMask
) -> Array:
  """Object attention by a kernel; arguments as in `object_attention`, a block mask required."""
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
