"""Muon updates the kernels of blocks by orthogonal matrices, and AdamW updates the rest."""

import jax
import numpy as np
import optax
import pytest

from tests.helpers import tiny
from ttm_jax.training.optimizer import make_optimizer

MUON = {
  'blocks.attn.query.kernel': (3, 16, 16),
  'masked_blocks.masked_attn.attention.out.kernel': (1, 16, 16),
  'blocks.ffn.up.kernel': (2, 8, 24),
  'down.0.units.0.resnet.conv1.kernel': (3, 3, 4, 12),
  'up.0.units.0.motion.proj_in.kernel': (12, 12),
}
ADAMW = {
  'embed.kernel': (8, 16),
  'head.kernel': (16, 8),
  'conv_in.kernel': (3, 3, 4, 12),
  'final_modulation.kernel': (16, 32),
  'blocks.table': (3, 6, 16),
  'text.words.attention.query.kernel': (8, 8),
  'text.words.table': (20, 8),
  'time.hidden.kernel': (8, 8),
  'masked_blocks.masked_attn.gate': (1,),
  'small': (30,),
}


def updates(**changes):
  """Return the updates of one step at full rate, by parameter."""
  config = tiny.shrunk(
    'demo_stage1',
    optimizer__warmup=0,
    optimizer__schedule='constant',
    optimizer__clip=1e9,
    **changes,
  ).optimizer
  optimizer = optax.with_extra_args_support(make_optimizer(config, 10))
  rng = np.random.default_rng(0)
  shapes = MUON | ADAMW
  params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  grads = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  step = jax.jit(lambda grads: optimizer.update(grads, optimizer.init(params), params, norm=1.0))
  return step(grads)[0]


@pytest.fixture(scope='module')
def both():
  return updates(), updates(optimizer__muon_rate=0.02)


@pytest.mark.parametrize('name', MUON)
def test_updates_of_block_kernels_are_orthogonal(both, name):
  found = np.asarray(both[1][name])
  # The positions of a convolution are inputs; stacked blocks are separate matrices.
  matrices = found.reshape(-1, found.shape[-1]) if found.ndim == 4 else found
  sizes = np.linalg.svd(matrices, compute_uv=False)
  rows, columns = matrices.shape[-2:]
  # Five Newton-Schulz iterations bring singular values to .7 to 1.2 of the same size.
  wanted = 0.02 * max(1, columns / rows) ** 0.5
  assert 0.6 * wanted < sizes.min() and sizes.max() < 1.3 * wanted


@pytest.mark.parametrize('name', ADAMW)
def test_the_rest_is_updated_as_without_muon(both, name):
  np.testing.assert_allclose(both[0][name], both[1][name], rtol=1e-6)
