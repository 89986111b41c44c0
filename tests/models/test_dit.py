"""The transformer against its equations in float64 NumPy, and weight transfer between tasks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.dit_reference import reference
from tests.helpers.networks import gradient, predict, same
from ttm_jax.conditioning import EVERYONE, Condition, Objects, TokenMasks, Tokens
from ttm_jax.configs import stage2_dit, ti2v_dit
from ttm_jax.models.dit.model import DiT, DiTConfig
from ttm_jax.models.stacked_transfer import transfer
from ttm_jax.nn import masked_attention
from ttm_jax.nn.attention import Attention, AttentionMask
from ttm_jax.nn.masked_attention import MaskedLayer, ObjectMasks
from ttm_jax.nn.norms import RMSNorm
from ttm_jax.ops.rematerialization import POLICIES
from ttm_jax.presets import model_config, preset
from ttm_jax.text.encoders import TextEncoderSpec

T5 = {'t5': TextEncoderSpec(dim=6, length=5, prompt_length=3)}
WORDS = {'words': TextEncoderSpec(dim=8, length=6, prompt_length=3)}
C = 3
TINY = DiTConfig(
  width=32,
  layers=2,
  heads=4,
  ffn=48,
  channels=C,
  grid=(3, 8, 8),
  dtype='float32',
  remat='none',
)
STAGE2 = dataclasses.replace(TINY, masked_blocks=1, visual_channels=2 * C)
ONE_LAYER = dataclasses.replace(STAGE2, layers=1)
TI2V = dataclasses.replace(TINY, masked_blocks=1, visual_channels=C)
LATENTS = (2, 8, 6)  # Smaller than the grid along time and width; 2 x 4 x 3 tokens.
TOKENS = (2, 4, 3)


@functools.cache
def structure(config, words=False):
  """Return the graph of the network and the shapes of its parameters, without values."""
  encoders = WORDS if words else T5
  model = nnx.eval_shape(lambda: DiT(config, encoders, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(model, nnx.Param)
  return graphdef, nnx.to_pure_dict(state)


def randomized(config, words=False, seed=1):
  """Draw random parameters, as after training: no head, gate or modulation is zero."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    return (0.2 * rng.normal(size=leaf.shape) + (path[-1].key == 'scale')).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, structure(config, words)[1])


def filled(config, value):
  """Set all parameters to one value, except norms, which keep their initial values."""

  def fill(path, leaf):
    return np.full(leaf.shape, 1 if path[-1].key == 'scale' else value, np.float32)

  return jax.tree_util.tree_map_with_path(fill, structure(config)[1])


def example_inputs(config, objects=True, seed=2):
  """Return x_t, t and a condition of two samples; the last text token is padding."""
  rng = np.random.default_rng(seed)

  def array(*shape):
    return rng.normal(size=(2, *shape)).astype(np.float32)

  text = {'t5': Tokens(array(5, 6), np.array([[EVERYONE] * 4 + [0]] * 2, np.int32))}
  visual = array(*LATENTS, config.visual_channels) if config.visual_channels else None
  region = 1 << rng.integers(0, 3, (2, *TOKENS), dtype=np.int32)
  present = 2 * rng.integers(0, 4, (2, *TOKENS), dtype=np.int32)  # Object sets of objects 1 and 2.
  prompts = {'t5': Tokens(array(6, 6), np.array([[2, 2, 0, 4, 4, 4]] * 2, np.int32))}
  condition = Condition(
    text, visual, Objects((TokenMasks(region, present),), prompts) if objects else None
  )
  return array(*LATENTS, C), np.array([900.0, 40.0], np.float32), condition


@jax.jit(static_argnums=0)
def initial(config):
  return nnx.to_pure_dict(nnx.state(DiT(config, T5, rngs=nnx.Rngs(0)), nnx.Param))


@pytest.mark.parametrize(
  'config, objects',
  [
    (TINY, False),
    (STAGE2, True),
    (TI2V, False),
    (dataclasses.replace(STAGE2, masked_blocks=2, masked_self=False), True),
    (dataclasses.replace(STAGE2, layers=3, masked_cross=False, unroll=2), True),
  ],
  ids=['text-to-video', 'stage 2', 'TI2V', 'masked cross alone', 'masked self alone, unrolled'],
)
def test_equations(config, objects):
  params = randomized(config)
  inputs = example_inputs(config, objects)
  wanted = reference(params, config, *inputs)
  assert wanted.std() > 0.5
  got = predict(structure(config)[0], params, *inputs)
  np.testing.assert_allclose(got, wanted, atol=5e-4)


def test_initial_network():
  params = initial(dataclasses.replace(STAGE2, masked_blocks=2))
  masked = params['masked_blocks']
  for extra, sibling in (('masked_attn', 'attn'), ('masked_cross_attn', 'cross_attn')):
    assert not masked[extra]['gate'].any()
    assert same(masked[extra]['attention'], masked[sibling])
  # Layers have different random weights, not copies along the stack.
  first, second = masked['ffn']['up']['kernel']
  assert np.std(first) == pytest.approx(0.02, rel=0.1) and np.abs(first - second).mean() > 0.01
  assert not params['embed_visual']['kernel'].any() and params['embed']['kernel'].any()
  assert not params['modulation']['kernel'].any() and masked['table'].any()
  assert not params['head']['kernel'].any()  # The first prediction is zero.


@pytest.mark.parametrize('config, objects', [(STAGE2, True), (TI2V, False)])
def test_extra_parts_leave_a_trained_network_as_it_is(config, objects):
  trained = randomized(TINY)
  params = transfer(trained, filled(config, 0.0))
  x_t, t, condition = example_inputs(config, objects)
  wanted = predict(structure(TINY)[0], trained, x_t, t, Condition(condition.text))
  got = predict(structure(config)[0], params, x_t, t, condition)
  assert np.std(wanted) > 0.5
  np.testing.assert_allclose(got, wanted, atol=2e-5)  # Except for rounding by the compiler.
  for name in ('masked_attn', 'masked_cross_attn'):
    params['masked_blocks'][name]['gate'] = np.ones(1, np.float32)
    opened = predict(structure(config)[0], params, x_t, t, condition)
    assert np.abs(opened - got).max() > 0.1
    got = opened


def test_extra_parts_can_be_learnt():
  trained = randomized(dataclasses.replace(TINY, layers=1))
  params = transfer(trained, filled(ONE_LAYER, 0.0))
  found = gradient(structure(ONE_LAYER)[0], params, *example_inputs(ONE_LAYER))
  assert np.abs(found['masked_blocks']['masked_attn']['gate']) > 1e-3
  assert np.abs(found['masked_blocks']['masked_cross_attn']['gate']) > 1e-3
  assert np.abs(found['embed_visual']['kernel']).max() > 1e-3


@pytest.fixture(scope='module')
def layer():
  """Return a masked layer with an open gate."""
  rngs = nnx.Rngs(0)
  layer = MaskedLayer(RMSNorm(16), Attention(16, 2, rngs=rngs), 'gate')
  layer.gate[...] = jnp.asarray(3.0)
  return layer


def masks(region, present):
  """Return token masks of one sample; two objects with two prompt tokens and one of padding."""
  prompts = jax.random.normal(jax.random.key(1), (1, 6, 16))
  bits = jnp.array([[2, 2, 0, 4, 4, 0]], jnp.int32)
  region, present = (jnp.array([x], jnp.int32).reshape(1, -1) for x in (region, present))
  unmoved = jnp.arange(region.shape[1])[None]
  return ObjectMasks(unmoved, pairs(region, region), prompts, pairs(present, bits))


def pairs(q_bits, k_bits):
  return AttentionMask.make(q_bits, k_bits, head_dim=8, dtype='float32')


def test_masked_cross_attention_reads_the_prompts_at_its_place(layer):
  present = [0, 2, 4, 6, 0, 4]
  m = masks([1] * 6, present)
  h = jax.random.normal(jax.random.key(0), (1, 6, 16))
  text = jnp.ones((1, 2, 16))
  read = pairs(jnp.full((1, 6), EVERYONE), jnp.full((1, 2), EVERYONE))
  out = masked_attention.masked_cross_attention(layer, h, m, text, read)
  nowhere = np.array(present) == 0
  np.testing.assert_array_equal(out[0, nowhere], h[0, nowhere])
  assert (np.abs(out - h)[0, ~nowhere].max(-1) > 1e-3).all()
  other = m.replace(prompts=m.prompts.at[:, 3:].add(1.0))  # The prompt of object 2.
  changed = masked_attention.masked_cross_attention(layer, h, other, text, read) != out
  np.testing.assert_array_equal(changed.any(-1)[0], [False, False, True, True, False, True])


def test_masked_self_attention_stays_within_an_object_over_all_frames(layer):
  region = [[1, 2, 4], [2, 1, 4]]  # Two frames; object 1 moves by one token.
  m = masks(region, [0] * 6)
  h = jax.random.normal(jax.random.key(0), (1, 6, 16))
  out = masked_attention.masked_self_attention(layer, h, m)
  changed = masked_attention.masked_self_attention(layer, h.at[0, 1].add(1.0), m) != out
  np.testing.assert_array_equal(changed.any(-1)[0], np.array(region).ravel() == 2)


def test_extra_layers_without_masks_are_plain(layer):
  h = jax.random.normal(jax.random.key(0), (1, 6, 16))
  text = jax.random.normal(jax.random.key(2), (1, 4, 16))
  text_bits = jnp.array([[EVERYONE] * 3 + [0]], jnp.int32)
  whole = masks([1] * 6, [2] * 6)
  prompted = pairs(jnp.full((1, 6), 2), jnp.array([[2, 2, 2, 0]], jnp.int32))
  one_object = whole.replace(prompts=text, prompt_mask=prompted)
  read = pairs(jnp.full((1, 6), EVERYONE), text_bits)
  np.testing.assert_allclose(
    masked_attention.masked_self_attention(layer, h, None),
    masked_attention.masked_self_attention(layer, h, whole),
    atol=1e-6,
  )
  np.testing.assert_allclose(
    masked_attention.masked_cross_attention(layer, h, None, text, read),
    masked_attention.masked_cross_attention(layer, h, one_object, text, read),
    atol=1e-6,
  )


def test_numbers_of_objects_carry_no_meaning():
  x_t, t, condition = example_inputs(STAGE2)
  caption = Tokens(np.full((2, 6), 5), condition.objects.prompts['t5'].bits * 0 + EVERYONE)
  (masks,) = condition.objects.token_masks
  prompts = np.array([[10, 11, 0, 20, 21, 22]] * 2)
  bits = np.array([[2, 2, 0, 4, 4, 4]] * 2, np.int32)

  def swapped(sets):
    return (sets & 1) | (sets & 2) << 1 | (sets & 4) >> 1

  outputs = [
    predict(
      structure(STAGE2, words=True)[0],
      randomized(STAGE2, words=True),
      x_t,
      t,
      Condition({'words': caption}, condition.visual, Objects((p,), {'words': Tokens(ids, b)})),
    )
    for p, ids, b in (
      (masks, prompts, bits),
      (
        TokenMasks(swapped(masks.region), swapped(masks.present)),
        np.roll(prompts, 3, axis=1),
        swapped(np.roll(bits, 3, axis=1)),
      ),
      (masks, np.roll(prompts, 3, axis=1), swapped(np.roll(bits, 3, axis=1))),
    )
  ]
  np.testing.assert_allclose(outputs[1], outputs[0], atol=2e-5)
  assert np.abs(outputs[2] - outputs[0]).max() > 0.01  # The prompts alone change the output.


def test_order_of_frames_matters():
  graphdef, params = structure(TINY)[0], randomized(TINY)
  x_t, t, condition = example_inputs(TINY, objects=False)
  out = predict(graphdef, params, x_t, t, condition)
  swapped = predict(graphdef, params, x_t[:, ::-1], t, condition)[:, ::-1]
  assert np.abs(swapped - out).max() > 0.1
  params['positions'] = filled(TINY, 0.0)['positions']
  out = predict(graphdef, params, x_t, t, condition)
  swapped = predict(graphdef, params, x_t[:, ::-1], t, condition)[:, ::-1]
  np.testing.assert_allclose(swapped, out, atol=5e-5)


def test_each_patch_comes_back_to_its_place():
  config = dataclasses.replace(TINY, width=4 * C, layers=0, heads=1)
  params = filled(config, 0.0)
  params['embed']['kernel'] = params['head']['kernel'] = np.eye(4 * C, dtype=np.float32)
  x_t, t, condition = example_inputs(config, objects=False)
  out = predict(structure(config)[0], params, x_t, t, condition)
  # Only the final norm remains, over the values of a patch.
  patches = x_t.reshape(2, 2, 4, 2, 3, 2, C)
  wanted = patches / np.sqrt((patches**2).mean((3, 5, 6), keepdims=True) + 1e-5)
  np.testing.assert_allclose(out, wanted.reshape(x_t.shape), rtol=1e-5)


def test_half_precision_is_close_to_single():
  params, inputs = randomized(STAGE2), example_inputs(STAGE2)
  exact = predict(structure(STAGE2)[0], params, *inputs)
  half = predict(structure(dataclasses.replace(STAGE2, dtype='bfloat16'))[0], params, *inputs)
  assert half.dtype == jnp.float32 and np.isfinite(half).all()
  assert 1e-4 < np.std(half - exact) / np.std(exact) < 0.03


def test_gradients_do_not_depend_on_what_is_kept():
  params, inputs = randomized(ONE_LAYER), example_inputs(ONE_LAYER)
  exact, *others = (
    gradient(structure(dataclasses.replace(ONE_LAYER, remat=remat))[0], params, *inputs)
    for remat in POLICIES
  )
  assert len(others) == len(POLICIES) - 1 and all(
    np.abs(x).max() > 0 for x in jax.tree.leaves(exact)
  )
  for other in others:
    for x, y in zip(*map(jax.tree.leaves, (other, exact)), strict=True):
      np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())


def counts(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def matrices(tree):
  """Count the values in the kernels of stacked blocks."""
  return sum(x.size for x in jax.tree.leaves(tree) if x.ndim == 3 and x.shape[1] > 6)


PAPER_TEXT = {
  'ul2': TextEncoderSpec(4096, 512, 128),
  'byt5': TextEncoderSpec(1472, 100, 64),
  'clip': TextEncoderSpec(1280, 256, 77),
}


def abstract(settings):
  config = model_config(settings)
  model = nnx.eval_shape(lambda: preset(settings.preset).build(config, PAPER_TEXT))
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def plain_part(blocks):
  return {k: v for k, v in blocks.items() if not k.startswith('masked_')}


def test_the_4b_model_has_the_parameters_of_the_paper():
  d, f = 2560, 6144
  stage2, baseline = abstract(stage2_dit.get_config()), abstract(ti2v_dit.get_config())
  assert matrices(stage2['blocks']) == 30 * (8 * d * d + 3 * d * f)
  assert matrices(plain_part(stage2['masked_blocks'])) == 10 * (8 * d * d + 3 * d * f)
  extra = matrices(stage2['masked_blocks']) - matrices(plain_part(stage2['masked_blocks']))
  assert extra == 10 * 8 * d * d == 524_288_000
  assert counts(stage2) == pytest.approx(4.050e9 + extra, rel=0.005)
  # The baseline lacks only the input weights of the trajectory.
  assert counts(stage2) - counts(baseline) == 4 * 16 * d
  print(f'stage 2: {counts(stage2):,} parameters')


@pytest.mark.parametrize('masked', [0, 1])
def test_counted_operations_are_those_of_the_compiled_program(masked):
  config = dataclasses.replace(
    STAGE2, width=256, ffn=512, layers=1, masked_blocks=masked, grid=(2, 16, 16)
  )
  encoders = {'t5': TextEncoderSpec(8, 16, 24)}
  model = nnx.eval_shape(lambda: DiT(config, encoders, rngs=nnx.Rngs(0)))
  graphdef, params = nnx.split(model)

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((2, *sizes), dtype)

  def tokens(n):
    return {'t5': Tokens(shape(n, 8), shape(n, dtype=jnp.int32))}

  place = shape(2, 8, 8, dtype=jnp.int32)
  condition = Condition(
    tokens(16), shape(2, 16, 16, 2 * C), Objects((TokenMasks(place, place),), tokens(3 * 24))
  )
  compiled = predict.lower(graphdef, params, shape(2, 16, 16, C), shape(), condition).compile()
  counted = preset('dit').forward_flops(config, (2, 16, 16), 16, 72, 1.0)
  assert compiled.cost_analysis()['flops'] / 2 == pytest.approx(counted, rel=0.1)


def test_counted_operations_by_hand():
  config = DiTConfig(masked_blocks=10, visual_channels=32)
  forward_flops, latents = preset('dit').forward_flops, (16, 32, 32)
  total = forward_flops(config, latents, 868, 8 * 269, 0.5)
  plain = forward_flops(DiTConfig(), latents, 868, 0, 0.0)
  assert plain == pytest.approx(37.6e12, rel=0.05)  # As estimated for the paper's run.
  d, n = 2560, 4096
  masked_self = 8 * n * d * d + 0.5 * 4 * n * n * d
  masked_cross = 4 * (n + 2152) * d * d + 4 * n * 2152 * d
  visual = 2 * n * 4 * 32 * d
  assert total - plain == pytest.approx(10 * (masked_self + masked_cross) + visual, rel=1e-9)


def base_layers(params):
  parts = [plain_part(params['masked_blocks'])] if 'masked_blocks' in params else []
  parts += [params['blocks']] if 'blocks' in params else []
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@pytest.mark.parametrize('count', [0, 1, 3])
def test_transfer_deals_the_layers_out_again(count):
  source = randomized(dataclasses.replace(STAGE2, layers=3, masked_blocks=2))
  target = filled(dataclasses.replace(STAGE2, layers=3, masked_blocks=count), 7.0)
  out = transfer(source, target)
  assert jax.tree.map(np.shape, out) == jax.tree.map(np.shape, target)
  assert same(base_layers(out), base_layers(source))
  for name in set(out) - {'blocks', 'masked_blocks'}:
    assert same(out[name], source[name])
  if count:
    masked = out['masked_blocks']
    assert same(masked['masked_attn']['attention'], masked['attn'])
    assert same(masked['masked_cross_attn']['attention'], masked['cross_attn'])
    assert (masked['masked_attn']['gate'] == 7).all()  # The target's initial values.


def test_transfer_keeps_masked_layers_of_as_many_blocks():
  source = randomized(STAGE2)
  assert same(transfer(source, filled(STAGE2, 7.0)), source)
  # An ablation without one of the two layers passes on the other.
  ablation = dataclasses.replace(STAGE2, masked_self=False)
  out = transfer(source, filled(ablation, 7.0))['masked_blocks']
  assert {k for k in out if k.startswith('masked_')} == {'masked_cross_attn'}
  assert same(out['masked_cross_attn'], source['masked_blocks']['masked_cross_attn'])
  source = randomized(ablation)
  out = transfer(source, filled(STAGE2, 7.0))['masked_blocks']
  assert same(out['masked_attn']['attention'], out['attn'])
  assert (out['masked_attn']['gate'] == 7).all()
  assert same(out['masked_cross_attn'], source['masked_blocks']['masked_cross_attn'])


def test_transfer_between_tasks_of_other_visual_conditions():
  source, target = randomized(TI2V), filled(STAGE2, 7.0)
  out = transfer(source, target)
  # Weights for the image alone do not fit image and trajectory.
  assert same(out['embed_visual'], target['embed_visual'])
  assert same(out['masked_blocks'], source['masked_blocks'])


def test_errors():
  with pytest.raises(ValueError, match='width 32 must be a multiple of heads 5'):
    dataclasses.replace(TINY, heads=5)
  with pytest.raises(ValueError, match='masked_blocks must be 0 to 2, got 3'):
    dataclasses.replace(TINY, masked_blocks=3)
  x_t, t, condition = example_inputs(STAGE2)

  def called(config, x_t, condition):
    graphdef, params = structure(config)
    return predict.lower(graphdef, params, x_t, t, condition)

  with pytest.raises(ValueError, match='did you mean "full"'):
    called(dataclasses.replace(STAGE2, remat='ful'), x_t, condition)
  with pytest.raises(ValueError, match='6 of visual condition, got 3 and 0'):
    called(STAGE2, x_t, Condition(condition.text))
  with pytest.raises(ValueError, match='got 2 and 6'):
    called(STAGE2, x_t[..., :2], condition)
  with pytest.raises(ValueError, match=r'exceed the grid \(3, 8, 8\)'):
    called(STAGE2, np.zeros((2, 4, 8, 6, 3), np.float32), condition)
