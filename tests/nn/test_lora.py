"""Adapters: initial values, the function they compute, dropout under scan, no full gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttm_jax.errors import InputError
from ttm_jax.nn import lora
from ttm_jax.nn.linear import Linear, exact_gradients
from ttm_jax.nn.lora import LoRAConfig
from ttm_jax.nn.scan import scan_blocks, stack
from ttm_jax.planning import hlo
from ttm_jax.planning.costs import costs

D, WIDE, LAYERS = 24, 40, 3


class Block(nnx.Module):
  """A residual block with a layer to adapt and a new one."""

  def __init__(self, dtype, rngs):
    self.up = Linear(D, WIDE, rngs=rngs, dtype=dtype, bias=True)
    self.down = Linear(WIDE, D, rngs=rngs, dtype=dtype)
    self.new = Linear(D, D, rngs=rngs, dtype=dtype)

  def __call__(self, h, context):
    return h + self.down(jax.nn.silu(self.up(h))) + context * self.new(h)


class Network(nnx.Module):
  def __init__(self, dtype=jnp.float32):
    rngs = nnx.Rngs(0)
    self.blocks = stack(Block, LAYERS, dtype, rngs)
    self.head = Linear(D, D, rngs=rngs)

  def __call__(self, x, remat='none'):
    return self.head(scan_blocks(self.blocks, x, 0.5, remat))


TARGETS, NEW = (r'blocks\.', 'head'), r'\.new$|\.new\.'


def adapted(config, dtype=jnp.float32):
  model = Network(dtype)
  lora.attach(model, config, TARGETS, NEW, 0)
  return model


def randomized(model):
  """Return the graphdef and the parameters, with random values of B."""
  graphdef, state = nnx.split(model)
  params = nnx.to_pure_dict(state)
  rng = np.random.default_rng(0)

  def drawn(path, leaf):
    return jnp.asarray(rng.normal(size=leaf.shape)) if path[-1].key == 'lora_b' else leaf

  return graphdef, jax.tree.map_with_path(drawn, params)


x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, D)), jnp.float32)


def test_which_layers_are_adapted_and_how_they_begin():
  params = nnx.to_pure_dict(nnx.state(adapted(LoRAConfig(rank=4))))
  assert {k for k, v in params['blocks'].items() if 'lora_a' in v} == {'up', 'down'}
  a, b = params['blocks']['up']['lora_a'], params['blocks']['up']['lora_b']
  assert (a.shape, b.shape) == ((LAYERS, D, 4), (LAYERS, 4, WIDE)) and not b.any()
  head = params['head']
  assert (head['lora_a'].shape, head['lora_b'].shape) == ((D, 4), (4, D))
  # Uniform in +-1 / sqrt(in), another draw for each layer of the stack.
  for drawn, d_in in ((a, D), (params['blocks']['down']['lora_a'], WIDE)):
    most = d_in**-0.5
    assert 0.8 * most < np.abs(drawn).max() <= most
    np.testing.assert_allclose(np.std(drawn), most / 3**0.5, rtol=0.15)
  assert len({bytes(np.asarray(layer)) for layer in a}) == LAYERS


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_at_the_start_nothing_changes(dtype):
  plain, model = Network(dtype), adapted(LoRAConfig(rank=2, dropout=0.3), dtype)
  np.testing.assert_array_equal(plain(x), model(x))


def test_the_merged_kernel_computes_the_same():
  config = LoRAConfig(rank=2, alpha=3.0)
  graphdef, params = randomized(adapted(config))
  wanted = nnx.merge(graphdef, params)(x)
  assert np.abs(wanted - Network()(x)).max() > 0.1

  def merged(layer):
    if 'lora_a' not in layer:
      return layer
    kernel = lora.merged(layer['kernel'], layer['lora_a'], layer['lora_b'], config.scale)
    return {'kernel': kernel} | ({'bias': layer['bias']} if 'bias' in layer else {})

  plain = {
    'blocks': {name: merged(layer) for name, layer in params['blocks'].items()},
    'head': merged(params['head']),
  }
  got = nnx.merge(nnx.graphdef(Network()), plain)(x)
  np.testing.assert_allclose(got, wanted, atol=1e-6 * float(np.abs(wanted).max()))


def loss(graphdef, params, key, remat='none'):
  model = nnx.merge(graphdef, params)
  lora.add_dropout(model, key)
  return (model(x, remat) ** 2).mean()


def test_dropout_is_that_of_its_key_also_when_it_is_computed_again():
  graphdef, params = randomized(adapted(LoRAConfig(rank=2, dropout=0.5)))
  both = jax.jit(jax.value_and_grad(functools.partial(loss, graphdef)), static_argnames='remat')
  one, other = jax.random.key(1), jax.random.key(2)
  wanted = both(params, one)
  for remat in ('dots', 'full'):
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      both(params, one, remat=remat),
      wanted,
    )
  assert both(params, one)[0] == wanted[0] != both(params, other)[0]
  without = nnx.merge(graphdef, params)
  np.testing.assert_array_equal(without(x), without(x))


def test_each_layer_draws_its_own_mask_and_the_mean_is_kept():
  model = adapted(LoRAConfig(rank=2, dropout=0.25))
  lora.add_dropout(model, jax.random.key(0))
  keys = [model.blocks.up.lora_key[...], model.blocks.down.lora_key[...], model.head.lora_key[...]]
  every = np.concatenate([jax.random.key_data(k).reshape(-1, 2) for k in keys])
  assert len({tuple(row) for row in every}) == len(every) == 2 * LAYERS + 1
  ones = jnp.ones((100, 100))
  dropped = np.asarray(model.head._dropped(ones))
  assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
  np.testing.assert_allclose(dropped.mean(), 1, atol=0.03)
  before = nnx.state(adapted(LoRAConfig(rank=2)), nnx.Param)
  jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.Param), before)


@pytest.mark.parametrize('exact', [False, True])
@pytest.mark.parametrize('remat', ['none', 'full'])
def test_the_gradient_of_a_frozen_kernel_is_never_computed(exact, remat):
  graphdef, params = randomized(adapted(LoRAConfig(rank=2)))
  trained = jax.tree.map_with_path(lambda p, x: x if 'lora' in p[-1].key else None, params)

  def partly(trained):
    merged = jax.tree.map(lambda t, p: p if t is None else t, trained, params, is_leaf=_is_none)
    with exact_gradients(exact):
      return loss(graphdef, merged, jax.random.key(0), remat)

  def flops(function, argument):
    text = jax.jit(jax.grad(function)).lower(argument).compile().as_text()
    return costs(hlo.parse(text), 1).flops

  rows = x.shape[0] * x.shape[1]
  of_kernels = 2 * rows * (LAYERS * (2 * D * WIDE + D * D) + D * D)
  with exact_gradients(exact):
    whole = flops(lambda params: loss(graphdef, params, jax.random.key(0), remat), params)
  assert whole - flops(partly, trained) == pytest.approx(of_kernels, rel=0.02)


def _is_none(value):
  return value is None


def test_what_is_frozen_and_how_it_is_stored():
  model = adapted(LoRAConfig(rank=2), jnp.bfloat16)
  found = lora.frozen(model, NEW, 'bfloat16', 'bfloat16')
  assert found == {
    'blocks.up.kernel': jnp.bfloat16,
    'blocks.up.bias': jnp.float32,
    'blocks.down.kernel': jnp.bfloat16,
    'head.kernel': jnp.float32,  # It computes in float32.
  }
  assert found == lora.frozen(Network(jnp.bfloat16), NEW, 'bfloat16', 'bfloat16')
  assert set(lora.frozen(model, NEW, 'bfloat16', 'float32').values()) == {jnp.float32}


def test_targets_that_match_nothing():
  complaint = (
    r'no linear layer has "blocks\\.new" in its path; there are, for example, blocks\.down'
  )
  with pytest.raises(InputError, match=complaint):
    lora.attach(Network(), LoRAConfig(rank=2), (r'blocks\.new',), NEW, 0)


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('rank', -1, 'rank must be 0'),
    ('alpha', 0.0, 'alpha must be above 0'),
    ('dropout', 1.0, 'dropout must be at least 0 and below 1'),
    (
      'base_dtype',
      'float16',
      r"base_dtype must be one of \['bfloat16', 'float32'\], got 'float16'",
    ),
    ('targets', ('(',), r"targets: '\(' is no regular expression"),
  ],
)
def test_values_out_of_range(field, value, message):
  with pytest.raises(ValueError, match=message):
    LoRAConfig(**{field: value})
