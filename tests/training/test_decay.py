"""Parameters that weight decay changes, in all networks."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers import tiny
from ttm_jax.data.context import Context
from ttm_jax.planning import inputs
from ttm_jax.training.codec import CodecTraining
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.packing import pack, unpack


def parameters(name, context=None):
  config = tiny.shrunk(name)
  if config.task == 'codec':
    config.loss.adversarial = 0.5
    objective = CodecTraining(config, (64, 64))
  else:
    objective = Denoising(config, context or inputs.typical_context(config))
  model = nnx.eval_shape(lambda: objective.build(0))
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def decaying(params) -> dict[str, bool]:
  """Return by path whether a parameter of ones shrinks if all gradients are zero."""
  # One value per parameter: decay depends on names and axes, and few shapes compile fast.
  ones = jax.tree.map(lambda x: np.ones((1,) * x.ndim, np.float32), params)
  config = tiny.shrunk('demo_stage1', optimizer__weight_decay=0.5, optimizer__warmup=0).optimizer
  optimizer = optax.with_extra_args_support(make_optimizer(config, 10))
  packed = pack(ones)
  zero = jax.tree.map(np.zeros_like, packed)
  state = optimizer.init(packed)
  updates, state = optimizer.update(zero, state, packed, norm=np.float32(1))
  updates, _ = optimizer.update(zero, state, packed, norm=np.float32(1))
  found = jax.tree_util.tree_leaves_with_path(unpack(optax.apply_updates(packed, updates), ones))
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): bool((np.asarray(x) < 1).all())
    for path, x in found
  }


# Besides kernels; their initial values are centered at zero.
TABLES = {'positions.h', 'positions.t', 'positions.w', 'text.words.table', 'text.words.positions'}


def check(found: dict[str, bool]) -> None:
  for name, decays in found.items():
    assert decays == (name.endswith('.kernel') or name in TABLES), name


@pytest.mark.parametrize(
  'name',
  [
    'demo_stage1',
    'demo_stage2',
    pytest.param('demo_unet_stage2', marks=pytest.mark.slow),
    'demo_wan_stage2',
    'ti2v_dit',
  ],
)
def test_kernels_decay_and_gates_norms_and_biases_do_not(name, latents_for):
  preset = tiny.shipped(name).preset
  found = decaying(parameters(name, Context.load(latents_for(preset))))
  check(found)
  if preset != 'unet':
    assert found['blocks.table'] is False
    assert found['blocks.attn.query.kernel'] is True
  assert any('norm' in n for n in found) and any(n.endswith('.bias') for n in found)


@pytest.mark.slow
def test_the_codec_and_its_critic():
  found = decaying(parameters('codec_tae'))
  check(found)
  assert any(n.startswith('critic.') for n in found)
