"""Attention on a mesh: samples over data and fsdp, heads over tensor and sequence.

Outside attention the tokens of a sample are split over `sequence`. Inside, every device has all
tokens of some heads: the exchange before and after is one all-to-all each (DeepSpeed-Ulysses,
arXiv 2309.14509). Masks, which are about all tokens, so need no thought.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from ttm_jax.parallel.mesh import BATCH

Array = jax.Array

HEADS = ('tensor', 'sequence')


def over_heads(attend: Callable[..., Array], q: Array, k: Array, v: Array, *rest: Any) -> Array:
  """attend(q, k, v, *rest), each device with its samples and its heads.

  Args:
    attend: a function that treats every sample and head alone.
    q: [B, N, H, D]; k, v: [B, M, H, D].
    rest: trees of arrays that every head needs, split over samples only: along their first axis, as
      `per_sample` returns them.

  Raises:
    ValueError: if the mesh in force does not divide the heads.
  """
  if not _on_mesh():
    return attend(q, k, v, *rest)
  mesh = jax.sharding.get_abstract_mesh()
  batch = _batch(q.shape[0])
  share = mesh.shape['tensor'] * mesh.shape['sequence']
  if q.shape[2] % share:
    raise ValueError(
      f'{q.shape[2]} heads do not divide over mesh axes tensor x sequence ='
      f' {mesh.shape["tensor"]} x {mesh.shape["sequence"]}'
    )
  heads = PartitionSpec(*batch, None, HEADS, None)

  def tokens(x: Array) -> Array:
    # Said of what goes in as well, for the sake of its gradient: left to itself, XLA's partitioner
    # derives weights from tokens on one side and heads on the other, and where both axes split
    # (jax 0.10.2) gets them wrong.
    split = 'sequence' if x.shape[1] % mesh.shape['sequence'] == 0 else None
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*batch, split, 'tensor', None))

  split = jax.shard_map(
    attend,
    in_specs=(heads, heads, heads, *(jax.tree.map(lambda _: batch, x) for x in rest)),
    out_specs=heads,
    check_vma=False,
  )
  return tokens(split(tokens(q), tokens(k), tokens(v), *rest))


def over_samples(h: Array) -> Array:
  """h [B, ...] as it lies between layers: samples over data and fsdp, nothing else split.

  Left alone, the compiler splits channels over `tensor`, as one or the other layer has it, and
  gathers them again. With a `sequence` to split, where that is best is left to it.
  """
  if not _on_mesh() or jax.sharding.get_abstract_mesh().shape['sequence'] > 1:
    return h
  return jax.lax.with_sharding_constraint(h, _batch(h.shape[0]))


def per_sample(make: Callable[..., Any], *arrays: Array) -> Any:
  """make(*arrays), each device from its samples; results lie one after the other along axis 0.

  Args:
    make: returns a tree of arrays with at least one axis.
    arrays: [B, ...] each.
  """
  if not _on_mesh():
    return make(*arrays)
  batch = _batch(arrays[0].shape[0])
  return jax.shard_map(make, in_specs=batch, out_specs=batch, check_vma=False)(*arrays)


def samples_of_a_device(samples: int) -> int:
  """How many samples of a batch each device computes."""
  if not _on_mesh() or _batch(samples) != BATCH:
    return samples
  mesh = jax.sharding.get_abstract_mesh()
  return samples // (mesh.shape['data'] * mesh.shape['fsdp'])


def over_tokens(h: Array) -> Array:
  """h [B, N, d] as it lies between the layers: samples over data and fsdp, tokens over sequence.

  Without this the compiler may well split the width, as some matrix product would have it, and
  exchange all of h in every layer.
  """
  if not _on_mesh():
    return h
  mesh = jax.sharding.get_abstract_mesh()
  tokens = 'sequence' if h.shape[1] % mesh.shape['sequence'] == 0 else None
  spec = PartitionSpec(*_batch(h.shape[0]), tokens, None)
  return jax.lax.with_sharding_constraint(h, spec)


def _on_mesh() -> bool:
  """Whether several devices share the work, and not each its own (inside of a shard_map)."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.size > 1 and AxisType.Manual not in mesh.axis_types


def _batch(samples: int) -> PartitionSpec:
  """How samples are split; a batch that does not divide is computed by every device."""
  mesh = jax.sharding.get_abstract_mesh()
  even = samples % (mesh.shape['data'] * mesh.shape['fsdp']) == 0
  return BATCH if even else PartitionSpec(None)
