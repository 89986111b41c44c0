"""Block-sparse object attention in plain JAX: memory linear in N, on every platform.

It computes only the blocks of the block mask. The backward pass recomputes the scores. It visits
each block once and adds to the gradients of keys and values in place.
"""

import jax
import jax.numpy as jnp

from ttm_jax.ops.object_attention.blocked import EMPTY, MASKED, Kernel
from ttm_jax.ops.object_attention.blocks import FULL, PLACE_BITS, BlockList, BlockMask

Array = jax.Array


def forward(
  q: Array, k: Array, v: Array, q_bits: Array, k_bits: Array, block_mask: BlockMask, scale: float
) -> tuple[Array, Array]:
  """Compute the forward pass (see `blocked`), one row of blocks after another."""
  b, heads, n, d = q.shape
  (block_q, block_k), blocks = block_mask.block, block_mask.by_query
  rows = n // block_q

  def one_row(index):
    sample, row = index // rows, index % rows
    queries, bits = _block(q, sample, row, block_q), _block(q_bits, sample, row, block_q)

    def visit(entry, carry):
      top, total, out = carry
      column = blocks.place[entry] & (1 << PLACE_BITS) - 1
      keys, values, key_bits = (_block(x, sample, column, block_k) for x in (k, v, k_bits))

      def weigh(scores):
        new_top = jnp.maximum(top, scores.max(-1))
        return new_top, jnp.exp(scores - new_top[..., None])

      def weigh_allowed(scores):
        # A row without an allowed key so far has top = MASKED. The second mask keeps its weights
        # from becoming exp(0) = 1.
        allowed = (bits[:, None] & key_bits) != 0
        new_top, weights = weigh(jnp.where(allowed, scores, MASKED))
        return new_top, jnp.where(allowed, weights, 0.0)

      scores = scale * _dot('hqd,hkd->hqk', queries, keys)
      new_top, weights = jax.lax.cond(_is_full(blocks, entry), weigh, weigh_allowed, scores)
      decay = jnp.exp(top - new_top)
      total = total * decay + weights.sum(-1)
      out = out * decay[..., None] + _dot('hqk,hkd->hqd', weights.astype(v.dtype), values)
      return new_top, total, out

    start = blocks.start[index]
    empty = (
      jnp.full((heads, block_q), MASKED),
      jnp.zeros((heads, block_q)),
      jnp.zeros((heads, block_q, d)),
    )
    top, total, out = jax.lax.fori_loop(start, start + blocks.runs[index], visit, empty)
    dead = total == 0
    total = jnp.where(dead, 1.0, total)
    return (out / total[..., None]).astype(v.dtype), jnp.where(dead, EMPTY, top + jnp.log(total))

  y, lse = jax.lax.map(one_row, jnp.arange(b * rows))
  return _rows_to_tokens(y, b), _rows_to_tokens(lse, b)


def backward(
  q: Array,
  k: Array,
  v: Array,
  q_bits: Array,
  k_bits: Array,
  block_mask: BlockMask,
  scale: float,
  lse: Array,
  delta: Array,
  dy: Array,
) -> tuple[Array, Array, Array]:
  """Compute the backward pass (see `blocked`)."""
  b, heads, n, d = q.shape
  (block_q, block_k), blocks = block_mask.block, block_mask.by_query
  rows = n // block_q

  def one_row(gradients, index):
    sample, row = index // rows, index % rows
    queries, bits, row_lse, row_delta, row_dy = (
      _block(x, sample, row, block_q) for x in (q, q_bits, lse, delta, dy)
    )

    def visit(entry, carry):
      dq, dk, dv = carry
      column = blocks.place[entry] & (1 << PLACE_BITS) - 1
      keys, values, key_bits = (_block(x, sample, column, block_k) for x in (k, v, k_bits))

      def weigh(scores):
        return jnp.exp(scores - row_lse[..., None])

      def weigh_allowed(scores):
        return jnp.where((bits[:, None] & key_bits) != 0, weigh(scores), 0.0)

      scores = scale * _dot('hqd,hkd->hqk', queries, keys)
      weights = jax.lax.cond(_is_full(blocks, entry), weigh, weigh_allowed, scores)
      dweights = _dot('hqd,hkd->hqk', row_dy, values)
      dscores = (scale * weights * (dweights - row_delta[..., None])).astype(q.dtype)
      dq += _dot('hqk,hkd->hqd', dscores, keys)
      dk = _add(dk, _dot('hqk,hqd->hkd', dscores, queries), sample, column)
      dv = _add(dv, _dot('hqk,hqd->hkd', weights.astype(dy.dtype), row_dy), sample, column)
      return dq, dk, dv

    start = blocks.start[index]
    carry = (jnp.zeros((heads, block_q, d)), *gradients)
    dq, *gradients = jax.lax.fori_loop(start, start + blocks.runs[index], visit, carry)
    return tuple(gradients), dq.astype(q.dtype)

  zeros = jnp.zeros(k.shape, jnp.float32)
  (dk, dv), dq = jax.lax.scan(one_row, (zeros, zeros), jnp.arange(b * rows))
  return _rows_to_tokens(dq, b), dk.astype(k.dtype), dv.astype(v.dtype)


KERNEL = Kernel(forward, backward)


def block(case) -> tuple[int, int]:
  """Return (queries, keys) of a block.

  Small blocks skip more pairs. Large blocks keep matrix products efficient, and XLA runs them on
  several cores. Blocks of fewer keys than queries are read and added to gradients more quickly.
  """
  return (512, 256) if max(case.queries, case.keys) > 1024 else (256, 128)


def _dot(equation: str, x: Array, y: Array) -> Array:
  return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _is_full(blocks: BlockList, entry: Array) -> Array:
  """Return whether all pairs of an entry are allowed, so that it needs no mask."""
  return (blocks.what[entry] & FULL) != 0


def _block(x: Array, sample: Array, index: Array, size: int) -> Array:
  """Return block `index` of the tokens of one sample, from [B, H, N, ...] or, for bits, [B, N]."""
  axis = 1 if x.ndim == 2 else 2
  x = jax.lax.dynamic_index_in_dim(x, sample, 0, keepdims=False)
  return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis - 1)


def _add(total: Array, part: Array, sample: Array, index: Array) -> Array:
  """Add [H, block, D] to block `index` of one sample of [B, H, M, D]."""
  begin = (sample, 0, index * part.shape[1], 0)
  old = jax.lax.dynamic_slice(total, begin, (1, *part.shape))
  return jax.lax.dynamic_update_slice(total, old + part, begin)


def _rows_to_tokens(x: Array, samples: int) -> Array:
  """Reshape [B R, H, block, ...] to [B, H, R block, ...]."""
  x = jnp.swapaxes(x.reshape(samples, -1, *x.shape[1:]), 1, 2)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])
