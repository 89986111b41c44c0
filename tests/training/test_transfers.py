"""Transfers traced: what each result needs, and its value from that alone."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from ttm_jax.models.dit.model import DiT, DiTConfig
from ttm_jax.models.stacked_transfer import transfer
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.training.partial import by_name, merged, split
from ttm_jax.training.transfers import Transfer

PLAIN = DiTConfig(width=16, layers=3, heads=2, ffn=8, channels=2, grid=(1, 2, 2))
STAGE2 = dataclasses.replace(PLAIN, masked_blocks=2, visual_channels=4)
ENCODERS = {'t5': TextEncoderSpec(6, 4, 2)}


def shapes(config):
  model = nnx.eval_shape(lambda: DiT(config, ENCODERS, rngs=nnx.Rngs(0)))
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


class Watched:
  """An array that remembers its name when it is read."""

  def __init__(self, name, array, read):
    self.name, self.array, self.read, self.shape = name, array, read, array.shape

  def __array__(self, dtype=None, copy=None):
    self.read.append(self.name)
    return self.array


@pytest.fixture(scope='module')
def networks():
  rng = np.random.default_rng(0)
  source = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes(PLAIN))
  return source, shapes(STAGE2)


def test_each_result_is_computed_from_what_it_needs(networks):
  source, target = networks
  initial = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), target)
  wanted = by_name(transfer(source, initial))
  traced = Transfer(transfer, source, target)
  assert traced.names == list(wanted)
  for name, value in wanted.items():
    needed, new = traced.needs(name)
    assert new == (name.endswith('gate') or name.startswith('embed_visual')), name
    if new:
      assert not needed
      continue
    read: list[str] = []
    got = traced.value(name, {n: Watched(n, x, read) for n, x in by_name(source).items()})
    np.testing.assert_array_equal(got, value)
    assert set(read) == needed and len(read) == len(needed) == 1, name
  assert traced.needs('masked_blocks.masked_attn.attention.query.kernel')[0] == {
    'blocks.attn.query.kernel'
  }


def test_a_tree_is_split_and_merged(networks):
  source, _ = networks
  names = {n for n in by_name(source) if 'attn' in n}
  others, chosen = split(source, names)
  assert set(by_name(chosen)) == names and set(by_name(others)) == set(by_name(source)) - names
  jax.tree.map(np.testing.assert_array_equal, merged(chosen, others), source)
  assert split(source, set())[1] == {}
