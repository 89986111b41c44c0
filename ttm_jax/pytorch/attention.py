"""Object attention: token i attends to token j iff `q_bits[i] & k_bits[j] != 0`.

A query without any allowed key returns exactly 0 and passes no gradient. There are three
implementations. One is chosen by device and size when the mask is made, once for all layers of a
denoising step:

    dense     one call of `scaled_dot_product_attention` (SDPA) with a mask; for small problems
    chunked   SDPA for one chunk of queries at a time, over the keys that any of them may attend to;
              memory is linear in the number of tokens
    flex      FlexAttention, compiled, on CUDA: a kernel that skips blocks without allowed pairs

Sort the tokens first (`sort_by_object`). In raster order nearly every chunk or block of a video
holds tokens of several objects, so `chunked` and `flex` can skip very little.
"""

import dataclasses
import functools
import importlib.util
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

DENSE, CHUNKED, FLEX = 'dense', 'chunked', 'flex'
IMPLEMENTATIONS = (DENSE, CHUNKED, FLEX)

# Pairs per head up to which `dense` is used: a mask of all of them is small.
DENSE_PAIRS = 1 << 20

CHUNK = 512  # Queries per SDPA call of `chunked`.
BLOCK = 128  # Block size of `flex`, in queries and in keys.


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A range of queries of one sample, and the keys that they need.

  Attributes:
    queries: range of the queries.
    keys: the keys that any of the queries may attend to: a slice if they are contiguous, else int64
      indices.
    whole: whether every one of these queries may attend to every one of these keys, so that no mask
      is needed.
  """

  queries: slice
  keys: slice | Tensor
  whole: bool


@dataclasses.dataclass(frozen=True)
class AttentionMask:
  """Which queries may attend to which keys, for all layers that share a token grid.

  Attributes:
    q_bits: int32 [B, N], the object set of each query; [B, 1] if all queries of a sample share one.
    k_bits: int32 [B, M], the object set of each key; bit 0 is the background, bit l object l.
    reads: bool [B, N] or [B, 1], whether each query may attend to any key.
    implementation: one of `IMPLEMENTATIONS`.
    plan: data prepared for that implementation: a mask (`dense`), a list of chunks for each sample
      (`chunked`) or a `BlockMask` (`flex`).
  """

  q_bits: Tensor
  k_bits: Tensor
  reads: Tensor
  implementation: str
  plan: Any

  @classmethod
  def make(
    cls, q_bits: Tensor, k_bits: Tensor, implementation: str | None = None
  ) -> 'AttentionMask':
    """Return the mask that allows the pairs whose object sets intersect.

    Args:
      q_bits: int32 [B, N] or [B, 1], object sets of the queries. One set for all queries of a
        sample always selects `dense`.
      k_bits: int32 [B, M], object sets of the keys.
      implementation: one of `IMPLEMENTATIONS`; None chooses by device and size, see `choose`.

    Raises:
      ValueError: if the implementation is unknown, or the bits are not int32.
    """
    if q_bits.dtype != torch.int32 or k_bits.dtype != torch.int32:
      raise ValueError(f'bits must be int32, got {q_bits.dtype} and {k_bits.dtype}')
    name = implementation or choose(q_bits, k_bits)
    if name not in IMPLEMENTATIONS:
      raise ValueError(f'object attention has no {name!r}: there are {IMPLEMENTATIONS}')
    if q_bits.shape[1] == 1:
      name = DENSE  # The mask is one row per sample, whatever the number of queries.
    offered = _members(k_bits).any(1, keepdim=True)
    reads = (_members(q_bits) & offered).any(-1)
    plan = {DENSE: _dense_plan, CHUNKED: _chunked_plan, FLEX: _flex_plan}[name](q_bits, k_bits)
    return cls(q_bits, k_bits, reads, name, plan)


def choose(q_bits: Tensor, k_bits: Tensor) -> str:
  """Return the implementation for int32 object sets [B, N] and [B, M]: one of `IMPLEMENTATIONS`.

  It is `dense` up to `DENSE_PAIRS` pairs. Beyond that it is `flex` on CUDA if it can be compiled,
  else `chunked`.
  """
  if q_bits.shape[1] * k_bits.shape[1] <= DENSE_PAIRS:
    return DENSE
  return FLEX if q_bits.device.type == 'cuda' and _can_compile() else CHUNKED


def object_attention(q: Tensor, k: Tensor, v: Tensor, pairs: AttentionMask | None) -> Tensor:
  """Return softmax attention among tokens whose object sets intersect, scaled by 1/sqrt(D).

  Args:
    q: queries, float [B, H, N, D].
    k, v: keys and values, float [B, H, M, D].
    pairs: the mask of the same tokens, on the same device; None allows all pairs.

  Returns:
    float [B, H, N, D], in the dtype of q; zeros for queries without any allowed key.
  """
  if pairs is None:
    return scaled_dot_product_attention(q, k, v)
  attend = {DENSE: _dense, CHUNKED: _chunked, FLEX: _flex}[pairs.implementation]
  y = attend(q, k, v, pairs)
  # `where`, not a product: kernels may return NaN or Inf for a row without allowed keys.
  return torch.where(pairs.reads[:, None, :, None], y, 0)


def sort_by_object(*bits: Tensor) -> Tensor:
  """Return the permutation that makes tokens with equal object sets contiguous.

  Args:
    bits: object sets, int32 [B, N] each. The first is the primary sort key, the next ones break
      ties. Remaining ties keep their order.

  Returns:
    int64 [B, N], the old position of each token of the new order, as `sort` and `unsort` take it.
  """
  order = torch.arange(bits[0].shape[1], device=bits[0].device).expand(bits[0].shape)
  for key in reversed(bits):
    order = order.gather(1, torch.argsort(key.gather(1, order), dim=1, stable=True))
  return order


def sort(x: Tensor, order: Tensor) -> Tensor:
  """Return x [B, N, ...] in the order [B, N] of `sort_by_object`."""
  return torch.take_along_dim(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), dim=1)


def unsort(x: Tensor, order: Tensor) -> Tensor:
  """Undo `sort`: return x [B, N, ...] in the original order."""
  return sort(x, torch.argsort(order, dim=1))


def _dense_plan(q_bits: Tensor, k_bits: Tensor) -> Tensor:
  return _mask(q_bits, k_bits)[:, None]


def _dense(q: Tensor, k: Tensor, v: Tensor, pairs: AttentionMask) -> Tensor:
  return scaled_dot_product_attention(q, k, v, attn_mask=pairs.plan)


def _chunked_plan(q_bits: Tensor, k_bits: Tensor) -> list[list[Chunk]]:
  n, plan = q_bits.shape[1], []
  for queries, keys in zip(_members(q_bits), _members(k_bits), strict=True):
    chunks = []
    for start in range(0, n, CHUNK):
      part = queries[start : start + CHUNK]
      used = (keys & part.any(0)).any(-1)
      index = used.nonzero()[:, 0]
      whole = bool((keys[index] & part.all(0)).any(-1).all())
      chunks.append(Chunk(slice(start, start + CHUNK), _as_slice(index), whole))
    plan.append(chunks)
  return plan


def _chunked(q: Tensor, k: Tensor, v: Tensor, pairs: AttentionMask) -> Tensor:
  samples = []
  for b, chunks in enumerate(pairs.plan):
    parts = []
    for chunk in chunks:
      queries, keys, values = q[b, :, chunk.queries], k[b][:, chunk.keys], v[b][:, chunk.keys]
      if not keys.shape[1]:
        parts.append(queries.new_zeros(*queries.shape[:2], v.shape[-1]))
        continue
      mask = None
      if not chunk.whole:
        mask = _mask(pairs.q_bits[b, chunk.queries], pairs.k_bits[b][chunk.keys])
      part = scaled_dot_product_attention(queries[None], keys[None], values[None], attn_mask=mask)
      parts.append(part[0])
    samples.append(torch.cat(parts, 1))
  return torch.stack(samples)


def _flex_plan(q_bits: Tensor, k_bits: Tensor) -> Any:
  from torch.nn.attention.flex_attention import BlockMask

  visited, full = block_table(q_bits, k_bits)

  def listed(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of set blocks of each row, and block indices, set blocks first."""
    index = torch.argsort(table.to(torch.int32), dim=-1, descending=True, stable=True)
    return table.sum(-1, dtype=torch.int32)[:, None], index.to(torch.int32)[:, None]

  def allowed(b, h, i, j):
    return (q_bits[b, i] & k_bits[b, j]) != 0

  return BlockMask.from_kv_blocks(
    *listed(visited & ~full),
    *listed(full),
    BLOCK_SIZE=BLOCK,
    mask_mod=allowed,
    seq_lengths=(q_bits.shape[1], k_bits.shape[1]),
  )


def _flex(q: Tensor, k: Tensor, v: Tensor, pairs: AttentionMask) -> Tensor:
  return _compiled()(q, k, v, block_mask=pairs.plan)


@functools.cache
def _compiled() -> Any:
  from torch.nn.attention.flex_attention import flex_attention

  return torch.compile(flex_attention)


@functools.cache
def _can_compile() -> bool:
  """Return whether FlexAttention supports any sequence length and Triton is installed."""
  try:
    from torch.nn.attention.flex_attention import BlockMask
  except ImportError:
    return False
  any_length = 'seq_lengths' in inspect.signature(BlockMask.from_kv_blocks).parameters
  return any_length and importlib.util.find_spec('triton') is not None


def block_table(q_bits: Tensor, k_bits: Tensor) -> tuple[Tensor, Tensor]:
  """Return which blocks of the score matrix have any allowed pair, and which have only such pairs.

  The tables follow from the object sets of each block, without the [N, M] matrix.

  Args:
    q_bits: int32 [B, N], object sets of the queries.
    k_bits: int32 [B, M], object sets of the keys.

  Returns:
    (visited, full): bool [B, ceil(N / BLOCK), ceil(M / BLOCK)] each. A block with positions beyond
    the last token is never full. `full` is conservative: it needs one object that is in the set of
    every query and of every key of the block.
  """

  def blocks(bits: Tensor, reduce) -> Tensor:
    members = pad(_members(bits), (0, 0, 0, -bits.shape[1] % BLOCK))
    return reduce(members.unflatten(1, (-1, BLOCK)), dim=2).float()

  visited = blocks(q_bits, torch.any) @ blocks(k_bits, torch.any).mT
  full = blocks(q_bits, torch.all) @ blocks(k_bits, torch.all).mT
  return visited > 0, full > 0


def _members(bits: Tensor) -> Tensor:
  """Unpack object sets: int32 [...] to bool [..., 32], one entry per bit."""
  return (bits[..., None] >> torch.arange(32, dtype=torch.int32, device=bits.device) & 1).bool()


def _mask(q_bits: Tensor, k_bits: Tensor) -> Tensor:
  """Return the SDPA mask, bool [..., N, M], True where attention is allowed.

  A row without any allowed pair is all True, since its softmax would be 0 / 0.
  """
  allowed = (q_bits[..., :, None] & k_bits[..., None, :]) != 0
  return allowed | ~allowed.any(-1, keepdim=True)


def _as_slice(index: Tensor) -> slice | Tensor:
  """Return an increasing int64 index as a slice if it has no gaps: slicing copies nothing."""
  count = len(index)
  if not count:
    return slice(0, 0)
  first, last = index[[0, -1]].tolist()
  return slice(first, last + 1) if last - first + 1 == count else index
