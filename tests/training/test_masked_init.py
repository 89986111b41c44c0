"""How new masked layers start: they add nothing, and then learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers import tiny
from ttm_jax.data.context import Context
from ttm_jax.nn.attention import Attention
from ttm_jax.nn.masked_attention import MASKED_INITS, MaskedLayer
from ttm_jax.nn.norms import RMSNorm
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.packing import pack, unpack


@pytest.mark.parametrize('init', MASKED_INITS)
def test_a_new_layer_adds_nothing_and_learns_by_its_gate_or_its_output(init):
  sibling = Attention(16, 2, rngs=nnx.Rngs(0))
  layer = MaskedLayer(RMSNorm(16), sibling, init)
  h = jax.random.normal(jax.random.key(0), (1, 6, 16))
  np.testing.assert_array_equal(layer(h), h)

  def loss(layer):
    return jnp.sum(layer(h) ** 3)

  found = nnx.to_pure_dict(nnx.grad(loss)(layer))
  learns = {
    'gate': np.abs(found['gate']).max(),
    'output': np.abs(found['attention']['out']['kernel']).max(),
  }
  assert {name for name, most in learns.items() if most > 1e-3} == {init}
  np.testing.assert_array_equal(layer.attention.query.kernel[...], sibling.query.kernel[...])


def test_an_unknown_way_is_refused():
  with pytest.raises(ValueError, match='masked_init must be one of'):
    MaskedLayer(RMSNorm(16), Attention(16, 2, rngs=nnx.Rngs(0)), 'zero')


def objective(latents_for, name, **changes):
  config = tiny.shrunk(name, **changes)
  return Denoising(config, Context.load(latents_for(config.preset)))


def parameters(made):
  return nnx.to_pure_dict(nnx.state(made.build(0), nnx.Param))


def masked_layers(params):
  """Return all masked layers: dicts of norm, attention and gate."""
  if not isinstance(params, dict):
    return []
  own = [value for key, value in params.items() if key in ('masked_attn', 'masked_cross_attn')]
  return own + [one for value in params.values() for one in masked_layers(value)]


@pytest.mark.parametrize(
  'name',
  ['demo_stage2', pytest.param('demo_unet_stage2', marks=pytest.mark.slow), 'demo_wan_stage2'],
)
def test_a_network_that_starts_from_another_keeps_its_function(latents_for, name):
  source = parameters(objective(latents_for, name, model__masked_blocks=0))
  source = jax.tree.map(lambda x: x + 0.1, source)
  for init in MASKED_INITS:
    made = objective(latents_for, name, model__masked_init=init)
    moved = made.transfer(source, parameters(made))
    layers = masked_layers(moved)
    assert layers
    for layer in layers:
      assert (layer['gate'] == (init == 'output')).all()
      assert bool(layer['attention']['out']['kernel'].any()) == (init == 'gate')
      assert layer['attention']['query']['kernel'].any()
    # Masked layers that the source has already are kept.
    again = made.transfer(jax.tree.map(lambda x: x + 0.1, moved), parameters(made))
    assert all(layer['attention']['out']['kernel'].any() for layer in masked_layers(again))


def test_gates_have_a_rate_of_their_own():
  params = {
    'masked_blocks': {'masked_attn': {'gate': jnp.zeros(2), 'norm': jnp.ones(3)}},
    'head': {'kernel': jnp.ones((2, 2))},
  }
  moved = {}
  for rate in (1.0, 100.0):
    config = tiny.shrunk('demo_stage2', optimizer__gate_rate=rate, optimizer__warmup=0).optimizer
    optimizer = optax.with_extra_args_support(make_optimizer(config, 10))
    packed = pack(params)
    grads = jax.tree.map(jnp.ones_like, packed)
    updates, _ = optimizer.update(grads, optimizer.init(packed), packed, norm=jnp.float32(1))
    new = unpack(optax.apply_updates(packed, updates), params)
    moved[rate] = jax.tree.map(lambda a, b: np.abs(a - b).max(), new, params)
  gate, others = moved[100.0].pop('masked_blocks'), moved[1.0].pop('masked_blocks')
  assert gate['masked_attn']['gate'] == pytest.approx(100 * others['masked_attn']['gate'])
  assert gate['masked_attn']['norm'] == others['masked_attn']['norm'] > 0
  assert moved[100.0] == moved[1.0]
