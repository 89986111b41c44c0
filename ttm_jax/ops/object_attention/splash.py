"""Object attention with JAX's splash attention kernel for TPUs, for sets of at most one object.

Splash attention supports segment ids, which are compared for equality, but not sets. The result is
therefore correct only if each query and key has at most one object, as in masked self-attention.
This implementation is for comparison; it is used only if named.

Splash attention builds its tables of blocks to skip from masks known at trace time. Here these
tables are filled from the lists of `blocks`, and the segment ids give the mask within a block. No N
x M array is created.

By the compiler's schedule, `tpu` is faster. Cycles for a block of 1024 x 512, bfloat16, head
dimension 128, without and with masked pairs (splash attention always masks; its backward pass
traverses the blocks twice):

                v5e: tpu       splash    v6e: tpu       splash
    forward     2336, 2320     2765      1501, 1768     1772
    backward    5326, 5344     7593      2617, 3017     4395

In addition, splash attention takes a grid step for every block it skips, and processes the samples
one after another.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask_info as mask_info,
)

from ttm_jax.ops.object_attention import tpu
from ttm_jax.ops.object_attention.blocks import (
  FLAG_BITS,
  PLACE_BITS,
  RUN,
  BlockList,
  BlockMask,
  fill_up,
)

Array = jax.Array

block = tpu.block


def refuses(case) -> str | None:
  """Return why a case is not supported, or None if it is.

  It does not check that each set has at most one object.
  """
  return tpu.refuses(case)


def make_attention(*, interpret: Any = False) -> Callable[..., Array]:
  """Return the attention function, which takes the arguments of `object_attention`.

  Args:
    interpret: a `pltpu.InterpretParams` to simulate a TPU on any platform; False compiles.
  """
  return functools.partial(_attention, interpret=interpret)


def _attention(
  q: Array,
  k: Array,
  v: Array,
  q_bits: Array,
  k_bits: Array,
  block_mask: BlockMask,
  *,
  interpret: Any,
) -> Array:
  n, scale = q.shape[1], q.shape[-1] ** -0.5
  block_q, block_k = block_mask.block

  def heads_first(x, size):
    return jnp.swapaxes(fill_up(x, size, 1), 1, 2)

  # The kernel does not scale logits, so q is scaled here. In bfloat16 this rounds, unless sqrt(D)
  # is a power of two.
  scaled = (q.astype(jnp.float32) * scale).astype(q.dtype)
  operands = heads_first(scaled, block_q), heads_first(k, block_k), heads_first(v, block_k)
  segments = fill_up(q_bits, block_q, 1), fill_up(k_bits, block_k, 1)
  b, rows, columns = q.shape[0], segments[0].shape[1] // block_q, segments[1].shape[1] // block_k
  some = _dense(block_mask.by_query, b, rows, columns)
  sizes = splash.BlockSizes(
    block_q=block_q,
    block_kv=block_k,
    block_kv_compute=min(block_k, tpu.CHUNK),
    block_q_dkv=block_q,
    block_kv_dkv=block_k,
    block_kv_dkv_compute=min(block_k, tpu.CHUNK),
    block_q_dq=block_q,
    block_kv_dq=block_k,
  )

  def one_sample(q, k, v, q_segments, k_segments, some):
    by_query = mask_info.MaskInfo(_next(some), None, some.astype(jnp.int32)[None], None, None)
    by_key = by_query._replace(data_next=jnp.swapaxes(_next(some.T), 1, 2))
    kernel = splash.SplashAttentionKernel(
      by_query,
      by_query,
      by_key,
      block_sizes=sizes,
      is_mqa=False,
      save_residuals=False,
      mask_value=splash.DEFAULT_MASK_VALUE,
      attn_logits_soft_cap=None,
      residual_checkpoint_name=None,
      mask_function=None,
      interpret=interpret,
    )
    return kernel(q, k, v, splash.SegmentIds(q_segments, k_segments))

  y = jnp.swapaxes(jax.vmap(one_sample)(*operands, *segments, some), 1, 2)[:, :n]
  # The kernel treats tokens with empty sets as one segment, and returns NaN for queries without
  # allowed keys. Both must be 0.
  keys = jax.lax.reduce(k_bits, jnp.int32(0), jax.lax.bitwise_or, (1,))
  return jnp.where(((q_bits & keys[:, None]) != 0)[..., None, None], y, 0)


attention = make_attention()


def _dense(blocks: BlockList, samples: int, rows: int, columns: int) -> Array:
  """Return bool [samples, rows, columns]: the blocks of a list that have allowed pairs."""
  line = (blocks.what >> FLAG_BITS) * rows + (blocks.place >> PLACE_BITS)
  flat = line * columns + (blocks.place & (1 << PLACE_BITS) - 1)
  some = jnp.zeros((samples * rows * columns,), bool).at[flat].max(blocks.what & RUN != 0)
  return some.reshape(samples, rows, columns)


def _next(some: Array) -> Array:
  """Return int32 [1, R, C]: the column of the next block with allowed pairs, to prefetch.

  The search starts at each block of bool [R, C], includes it, and proceeds in row order. After the
  last such block, the result is its column.
  """
  flat = some.reshape(-1)
  index = jnp.arange(flat.size, dtype=jnp.int32)
  last = jnp.max(jnp.where(flat, index, 0))
  coming = jax.lax.cummin(jnp.where(flat, index, last), reverse=True)
  return (coming % some.shape[1]).reshape(1, *some.shape)
