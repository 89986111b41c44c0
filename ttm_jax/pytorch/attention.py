"""Attention under one rule: token i attends to token j iff `q_bits[i] & k_bits[j] != 0`.

A query that may attend to nothing returns exactly 0 and passes no gradient. There are three ways to
compute it, chosen by device and size when the pairs are listed, once for all layers of a step:

    dense     one call of `scaled_dot_product_attention` (SDPA) with a mask: for what is small
    chunked   SDPA for one chunk of queries after the other, with the keys that any of them may
              attend to; on sorted tokens it skips the rest. Memory is linear in the tokens.
    flex      FlexAttention, compiled, on CUDA: a kernel that skips blocks without allowed pairs

Tokens are worth sorting first (`sort_by_object`): in raster order nearly every chunk or block of a
video holds tokens of several objects, and hardly anything can be skipped.
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

# Up to so many pairs a head, a mask of all of them costs little.
DENSE_PAIRS = 1 << 20

CHUNK = 512  # Queries that `chunked` takes at once.
BLOCK = 128  # Side of the blocks that `flex` skips.


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Some queries of one sample.

  Attributes:
    queries: which.
    keys: those that any of the queries may attend to, a slice where they lie together.
    whole: whether all of these queries may attend to all of these keys.
  """

  queries: slice
  keys: slice | Tensor
  whole: bool


@dataclasses.dataclass(frozen=True)
class AttentionMask:
  """Which queries may attend to which keys, for all layers that share a grid of tokens.

  Attributes:
    q_bits: int32 [B, N], the object set of each query, or [B, 1], one for all of a sample.
    k_bits: int32 [B, M], likewise; bit 0 is the background, bit l object l.
    reads: whether a query may attend to anything at all: bool [B, N] or [B, 1].
    implementation: a name of `IMPLEMENTATIONS`.
    plan: what that one prepares: a mask, chunks of each sample, or a block mask.
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
    """The pairs whose object sets meet.

    Args:
      implementation: a name of `IMPLEMENTATIONS`; None chooses by device and size.

    Raises:
      ValueError: if it is unknown, or the bits are not int32.
    """
    if q_bits.dtype != torch.int32 or k_bits.dtype != torch.int32:
      raise ValueError(f'bits must be int32, got {q_bits.dtype} and {k_bits.dtype}')
    name = implementation or choose(q_bits, k_bits)
    if name not in IMPLEMENTATIONS:
      raise ValueError(f'object attention has no {name!r}: there are {IMPLEMENTATIONS}')
    if q_bits.shape[1] == 1:
      name = DENSE  # The mask is one row a sample, whatever the number of queries.
    offered = _members(k_bits).any(1, keepdim=True)
    reads = (_members(q_bits) & offered).any(-1)
    plan = {DENSE: _dense_plan, CHUNKED: _chunked_plan, FLEX: _flex_plan}[name](q_bits, k_bits)
    return cls(q_bits, k_bits, reads, name, plan)


def choose(q_bits: Tensor, k_bits: Tensor) -> str:
  """The name of the implementation for these pairs."""
  if q_bits.shape[1] * k_bits.shape[1] <= DENSE_PAIRS:
    return DENSE
  return FLEX if q_bits.device.type == 'cuda' and _can_compile() else CHUNKED


def object_attention(q: Tensor, k: Tensor, v: Tensor, pairs: AttentionMask | None) -> Tensor:
  """Softmax attention among tokens whose object sets meet, scaled by 1/sqrt(D).

  Args:
    q: [B, H, N, D].
    k, v: [B, H, M, D].
    pairs: of the same tokens, on the same device; None for all pairs.

  Returns:
    [B, H, N, D]; zeros for queries that may attend to nothing.
  """
  if pairs is None:
    return scaled_dot_product_attention(q, k, v)
  attend = {DENSE: _dense, CHUNKED: _chunked, FLEX: _flex}[pairs.implementation]
  y = attend(q, k, v, pairs)
  # Not a product: what kernels return for an empty row need not even be finite.
  return torch.where(pairs.reads[:, None, :, None], y, 0)


def sort_by_object(*bits: Tensor) -> Tensor:
  """The order that brings equal object sets together.

  Args:
    bits: int32 [B, N] each; the first decides, the next ones where it is equal; then the position.

  Returns:
    int64 [B, N], the position each token of the new order comes from: the argument of `sort` and
    `unsort`.
  """
  order = torch.arange(bits[0].shape[1], device=bits[0].device).expand(bits[0].shape)
  for key in reversed(bits):
    order = order.gather(1, torch.argsort(key.gather(1, order), dim=1, stable=True))
  return order


def sort(x: Tensor, order: Tensor) -> Tensor:
  """Brings x [B, N, ...] into the order."""
  return torch.take_along_dim(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), dim=1)


def unsort(x: Tensor, order: Tensor) -> Tensor:
  """Brings x [B, N, ...] back from the order."""
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
    """How many blocks of each row, and which, those first."""
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
  """Whether there is FlexAttention for sequences of any length, and Triton to compile it."""
  try:
    from torch.nn.attention.flex_attention import BlockMask
  except ImportError:
    return False
  any_length = 'seq_lengths' in inspect.signature(BlockMask.from_kv_blocks).parameters
  return any_length and importlib.util.find_spec('triton') is not None


def block_table(q_bits: Tensor, k_bits: Tensor) -> tuple[Tensor, Tensor]:
  """Which blocks of the score matrix hold an allowed pair, and which hold no other.

  Found from the sets of the blocks: the matrix itself is never made.

  Returns:
    bool [B, N / BLOCK, M / BLOCK], rounded up, each. A block that reaches beyond the last token
    does not count as full.
  """

  def blocks(bits: Tensor, reduce) -> Tensor:
    members = pad(_members(bits), (0, 0, 0, -bits.shape[1] % BLOCK))
    return reduce(members.unflatten(1, (-1, BLOCK)), dim=2).float()

  visited = blocks(q_bits, torch.any) @ blocks(k_bits, torch.any).mT
  full = blocks(q_bits, torch.all) @ blocks(k_bits, torch.all).mT
  return visited > 0, full > 0


def _members(bits: Tensor) -> Tensor:
  """Object sets one by one: int32 [...] to bool [..., 32]."""
  return (bits[..., None] >> torch.arange(32, dtype=torch.int32, device=bits.device) & 1).bool()


def _mask(q_bits: Tensor, k_bits: Tensor) -> Tensor:
  """What SDPA masks by, bool [..., N, M]; a row without any allowed pair is all open.

  Its softmax would otherwise be 0 / 0.
  """
  allowed = (q_bits[..., :, None] & k_bits[..., None, :]) != 0
  return allowed | ~allowed.any(-1, keepdim=True)


def _as_slice(index: Tensor) -> slice | Tensor:
  """An increasing index as a slice, which copies nothing, where it has no gaps."""
  count = len(index)
  if not count:
    return slice(0, 0)
  first, last = index[[0, -1]].tolist()
  return slice(first, last + 1) if last - first + 1 == count else index
