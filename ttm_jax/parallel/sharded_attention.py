"""Attention on a mesh: samples sharded over data and fsdp, heads over tensor and sequence.

Outside attention the tokens of a sample are sharded over `sequence`. Inside, each device has all
tokens of some heads, with one all-to-all before and one after (DeepSpeed-Ulysses,
arXiv 2309.14509). Attention masks therefore need no sharding over tokens.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from ttm_jax.parallel.mesh import BATCH

Array = jax.Array

HEADS = ('tensor', 'sequence')


def over_heads(attend: Callable[..., Array], q: Array, k: Array, v: Array, *rest: Any) -> Array:
  """Compute attend(q, k, v, *rest) with each device computing its own samples and heads.

  Args:
    attend: a function of [B, N, H, D] arrays that is independent across samples and heads.
    q: queries [B, N, H, D].
    k, v: keys and values [B, M, H, D].
    rest: trees of arrays that all heads share, sharded over samples along their first axis, as
      returned by `per_sample`.

  Returns:
    The output of `attend`, [B, N, H, D].

  Raises:
    ValueError: if the number of heads is not divisible by mesh axes tensor x sequence.
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
    # The inputs are constrained too, for the sake of their gradients. Without it, XLA's partitioner
    # computes weight gradients from tokens sharded on one side and heads sharded on the other. With
    # both sequence and tensor above 1 the results are wrong (jax 0.10.2).
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
  """Constrain h [B, ...] between layers: samples sharded over data and fsdp, other axes replicated.

  Without this the compiler may shard channels over `tensor` after one layer and all-gather them
  before the next. If the mesh axis `sequence` is above 1, h is returned without a constraint.
  """
  if not _on_mesh() or jax.sharding.get_abstract_mesh().shape['sequence'] > 1:
    return h
  return jax.lax.with_sharding_constraint(h, _batch(h.shape[0]))


def per_sample(make: Callable[..., Any], *arrays: Array) -> Any:
  """Compute make(*arrays) on each device for its own samples; concatenate results along axis 0.

  Args:
    make: a function that returns a tree of arrays with at least one axis.
    arrays: arrays [B, ...], sharded over samples.
  """
  if not _on_mesh():
    return make(*arrays)
  batch = _batch(arrays[0].shape[0])
  return jax.shard_map(make, in_specs=batch, out_specs=batch, check_vma=False)(*arrays)


def samples_of_a_device(samples: int) -> int:
  """Return how many samples of a batch each device computes.

  Args:
    samples: size of the whole batch.
  """
  if not _on_mesh() or _batch(samples) != BATCH:
    return samples
  mesh = jax.sharding.get_abstract_mesh()
  return samples // (mesh.shape['data'] * mesh.shape['fsdp'])


def over_tokens(h: Array) -> Array:
  """Constrain h [B, N, d] between layers: samples over data and fsdp, tokens over sequence.

  Without this the compiler may shard the width d to suit one matrix product, and communicate all of
  h in every layer.
  """
  if not _on_mesh():
    return h
  mesh = jax.sharding.get_abstract_mesh()
  tokens = 'sequence' if h.shape[1] % mesh.shape['sequence'] == 0 else None
  spec = PartitionSpec(*_batch(h.shape[0]), tokens, None)
  return jax.lax.with_sharding_constraint(h, spec)


def _on_mesh() -> bool:
  """Return whether the current mesh has several devices and this is not inside a shard_map."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.size > 1 and AxisType.Manual not in mesh.axis_types


def _batch(samples: int) -> PartitionSpec:
  """Return the partition spec of the samples; a batch that does not divide is replicated."""
  mesh = jax.sharding.get_abstract_mesh()
  even = samples % (mesh.shape['data'] * mesh.shape['fsdp']) == 0
  return BATCH if even else PartitionSpec(None)
