"""The U-Net: its masked block against the equations, and weight transfer between tasks."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.networks import gradient, predict, same
from ttm_jax.conditioning import EVERYONE, Condition, Objects, TokenMasks, Tokens
from ttm_jax.models.unet.flops import forward_flops
from ttm_jax.models.unet.layers import LevelInputs, MaskedParts, TransformerBlock
from ttm_jax.models.unet.model import UNet, UNetConfig
from ttm_jax.models.unet.motion import MotionModule
from ttm_jax.models.unet.transfer import SIBLINGS, transfer
from ttm_jax.nn.attention import AttentionMask
from ttm_jax.nn.masked_attention import ObjectMasks
from ttm_jax.nn.norms import GroupNorm
from ttm_jax.ops.object_attention import sort, sort_by_object
from ttm_jax.text.encoders import CLIP_L, TextEncoderSpec

C, TEXT = 3, 12
ENCODERS = {'clip_l': TextEncoderSpec(dim=TEXT, length=5, prompt_length=3)}
TINY = UNetConfig(
  widths=(8, 16),
  units=1,
  heads=2,
  groups=4,
  text_width=TEXT,
  channels=C,
  motion_length=4,
  dtype='float32',
  remat='none',
)
STAGE2 = dataclasses.replace(TINY, masked_blocks=1, visual_channels=2 * C)
TI2V = dataclasses.replace(TINY, masked_blocks=1, visual_channels=C)
LATENTS = (2, 4, 6)


@functools.cache
def structure(config):
  """Return the graph of the network and the shapes of its parameters, without values."""
  model = nnx.eval_shape(lambda: UNet(config, ENCODERS, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(model, nnx.Param)
  return graphdef, nnx.to_pure_dict(state)


def drawn(tree, seed=1):
  """Draw random parameters, as after training: none is zero."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    return (0.2 * rng.normal(size=leaf.shape) + (path[-1].key == 'scale')).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, tree)


def filled(config, value):
  return jax.tree.map(lambda x: np.full(x.shape, value, np.float32), structure(config)[1])


def example_inputs(config, objects=True, seed=2):
  """Return x_t, t and a condition of two samples."""
  rng = np.random.default_rng(seed)

  def array(*shape):
    return rng.normal(size=(2, *shape)).astype(np.float32)

  text = {'clip_l': Tokens(array(5, TEXT), np.full((2, 5), EVERYONE, np.int32))}
  visual = array(*LATENTS, config.visual_channels) if config.visual_channels else None
  region = 1 << rng.integers(0, 3, (2, *LATENTS), dtype=np.int32)
  present = 2 * rng.integers(0, 4, (2, *LATENTS), dtype=np.int32)
  prompts = {'clip_l': Tokens(array(6, TEXT), np.array([[2, 2, 2, 4, 4, 4]] * 2, np.int32))}
  given = Objects((TokenMasks(region, present),), prompts) if objects else None
  return array(*LATENTS, C), np.array([999.0, 40.0], np.float32), Condition(text, visual, given)


def attend(p, heads, x, context, allowed):
  """Compute attention with projections in float64: x [N, d], context [M, D], allowed [N, M]."""

  def split(y):
    return y.reshape(len(y), heads, -1).swapaxes(0, 1)

  q = split(x @ p['query']['kernel'])
  k, v = split(context @ p['key']['kernel']), split(context @ p['value']['kernel'])
  scores = np.where(allowed, q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), -np.inf)
  top = np.where(allowed.any(-1), scores.max(-1), 0)[..., None]
  weights = np.exp(scores - top)
  total = weights.sum(-1, keepdims=True)
  y = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0) @ v
  y = y.swapaxes(0, 1).reshape(len(x), -1) @ p['out']['kernel'] + p['out']['bias']
  return np.where(allowed.any(-1, keepdims=True), y, 0)


def normed(p, x):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p['scale'] + p['bias']


@pytest.mark.parametrize('objects', [True, False])
@pytest.mark.parametrize('by_frame', [False, True])
def test_equations_of_a_masked_block(by_frame, objects):
  """Compare with the paper's equations in raster order, in float64."""
  frames, n, d, heads = 3, 5, 8, 2
  rngs = nnx.Rngs(0)
  block = TransformerBlock(
    d, heads, TEXT, MaskedParts(True, True, by_frame), rngs=rngs, dtype=jnp.float32
  )
  graphdef, state = nnx.split(block)
  params = drawn(nnx.to_pure_dict(state))
  rng = np.random.default_rng(3)
  h = rng.normal(size=(1, frames, n, d)).astype(np.float32)
  text, prompts = (rng.normal(size=(1, m, TEXT)).astype(np.float32) for m in (4, 6))
  region = (1 << rng.integers(0, 3, frames * n)).astype(np.int32)
  present = (2 * rng.integers(0, 4, frames * n)).astype(np.int32)
  text_bits = np.array([[EVERYONE] * 3 + [0]], np.int32)
  prompt_bits = np.array([[2, 2, 0, 4, 4, 4]], np.int32)

  def pairs(q, k):
    return AttentionMask.make(jnp.asarray(q), jnp.asarray(k), d // heads, 'float32')

  masks = None
  if objects:
    rows = frames if by_frame else 1
    order = sort_by_object(jnp.asarray(region.reshape(rows, -1)))
    own, there = (sort(x.reshape(rows, -1), order) for x in (region, present))
    masks = ObjectMasks(order, pairs(own, own), prompts, pairs(there.reshape(1, -1), prompt_bits))
  everyone = np.full((1, frames * n), EVERYONE, np.int32)
  level = LevelInputs(jnp.asarray(text), pairs(everyone, text_bits), masks)
  got = jax.jit(lambda p, h, level: nnx.merge(graphdef, p)(h, level))(params, h, level)

  p = jax.tree.map(np.float64, params)
  x = h.reshape(-1, d).astype(np.float64)
  frame = np.repeat(np.arange(frames), n)
  same_frame = frame[:, None] == frame
  x = x + attend(p['attn'], heads, normed(p['norm1'], x), normed(p['norm1'], x), same_frame)
  extra = p['masked_attn']
  own = region[:, None] == region if objects else np.full((frames * n,) * 2, True)
  own = own & same_frame if by_frame else own
  y = normed(extra['norm'], x)
  x = x + np.tanh(extra['gate']) * attend(extra['attention'], heads, y, y, own)
  reads = np.broadcast_to(text_bits[0] != 0, (frames * n, 4))
  x = x + attend(p['cross_attn'], heads, normed(p['norm2'], x), text[0], reads)
  extra = p['masked_cross_attn']
  context, allowed = (
    (prompts[0], present[:, None] & prompt_bits[0] != 0) if objects else (text[0], reads)
  )
  y = attend(extra['attention'], heads, normed(extra['norm'], x), context, allowed)
  assert not objects or (np.abs(y).max(-1) == 0).any()  # Tokens without a prompt are unchanged.
  x = x + np.tanh(extra['gate']) * y
  up = normed(p['norm3'], x) @ p['ffn']['up']['kernel'] + p['ffn']['up']['bias']
  value, gate = np.split(up, 2, -1)
  gelu = gate * 0.5 * (1 + np.vectorize(math.erf)(gate / np.sqrt(2)))
  x = x + (value * gelu) @ p['ffn']['down']['kernel'] + p['ffn']['down']['bias']
  np.testing.assert_allclose(got.reshape(-1, d), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('config, objects', [(STAGE2, True), (TI2V, False)])
def test_extra_parts_leave_a_trained_network_as_it_is(config, objects):
  trained = drawn(structure(TINY)[1])
  params = transfer(trained, filled(config, 0.0))
  x_t, t, condition = example_inputs(config, objects)
  wanted = predict(structure(TINY)[0], trained, x_t, t, Condition(condition.text))
  got = predict(structure(config)[0], params, x_t, t, condition)
  assert np.std(wanted) > 0.3
  np.testing.assert_allclose(got, wanted, atol=2e-5)
  block = params['down']['0']['units']['0']['spatial']['block']
  for name in ('masked_attn', 'masked_cross_attn'):
    block[name]['gate'] = np.ones((), np.float32)
    opened = predict(structure(config)[0], params, x_t, t, condition)
    assert np.abs(opened - got).max() > 0.01
    got = opened


@pytest.mark.slow
def test_gradients_reach_everything_and_do_not_depend_on_what_is_kept():
  inputs = example_inputs(STAGE2)
  exact, *others = (
    gradient(
      structure(dataclasses.replace(STAGE2, remat=remat))[0], drawn(structure(STAGE2)[1]), *inputs
    )
    for remat in ('none', 'full')
  )
  for path, leaf in jax.tree.leaves_with_path(exact):
    assert np.abs(leaf).max() > 1e-6, jax.tree_util.keystr(path)
  for other in others:
    for x, y in zip(*map(jax.tree.leaves, (other, exact)), strict=True):
      np.testing.assert_allclose(x, y, rtol=0, atol=2e-4 * np.abs(y).max() + 1e-6)


def test_extra_parts_can_be_learnt():
  params = transfer(drawn(structure(TINY)[1]), filled(STAGE2, 0.0))
  found = gradient(structure(STAGE2)[0], params, *example_inputs(STAGE2))
  block = found['down']['0']['units']['0']['spatial']['block']
  assert np.abs(block['masked_attn']['gate']) > 1e-4
  assert np.abs(block['masked_cross_attn']['gate']) > 1e-4
  assert np.abs(found['conv_visual']['kernel']).max() > 1e-4


def test_half_precision_is_close_to_single():
  params, inputs = drawn(structure(STAGE2)[1]), example_inputs(STAGE2)
  exact = predict(structure(STAGE2)[0], params, *inputs)
  half = predict(structure(dataclasses.replace(STAGE2, dtype='bfloat16'))[0], params, *inputs)
  assert half.dtype == jnp.float32 and np.isfinite(half).all()
  assert 1e-4 < np.std(half - exact) / np.std(exact) < 0.1


def test_a_new_network_predicts_zero_and_its_motion_modules_do_nothing():
  model = UNet(STAGE2, ENCODERS, rngs=nnx.Rngs(0))
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  for zero in (params['conv_visual'], params['conv_out']['kernel']):
    assert not any(x.any() for x in jax.tree.leaves(zero))
  unit = params['down']['0']['units']['0']
  for part in (unit['resnet']['conv2'], unit['spatial']['proj_out'], unit['motion']['proj_out']):
    assert not part['kernel'].any()
  block = unit['spatial']['block']
  assert same(block['masked_attn']['attention'], block['attn'])
  assert same(block['masked_cross_attn']['attention'], block['cross_attn'])
  assert block['attn']['query']['kernel'].std() > 0.01


@pytest.mark.parametrize('clip_norm', [True, False])
def test_motion_modules_know_the_order_of_frames(clip_norm):
  module = MotionModule(8, 2, 4, clip_norm, rngs=nnx.Rngs(0), dtype=jnp.float32)
  graphdef, state = nnx.split(module)
  params = drawn(nnx.to_pure_dict(state))
  run = jax.jit(lambda x: nnx.merge(graphdef, params)(x) - x)
  x = np.random.default_rng(0).normal(size=(1, 3, 2, 2, 8)).astype(np.float32)
  out = run(x)
  assert np.abs(run(x[:, ::-1])[:, ::-1] - out).max() > 0.02
  far = run(np.concatenate([x, x + 5], 0))[0]
  np.testing.assert_allclose(far, out[0], atol=1e-5)  # Samples do not interact.


def test_statistics_of_group_norms():
  x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 5, 8)).astype(np.float32)
  x[:, 1] *= 4
  for clip in (True, False):
    got = np.asarray(GroupNorm(8, 2, eps=1e-6, clip=clip)(x))
    grouped = got.reshape(2, 3, -1, 2, 4)
    axes = (1, 2, 4) if clip else (2, 4)
    np.testing.assert_allclose(grouped.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(grouped.std(axes), 1, atol=1e-4)
    assert (np.abs(grouped.std((2, 4)) - 1).max() > 0.1) == clip


def test_transfer_keeps_what_fits():
  source, target = drawn(structure(STAGE2)[1]), filled(STAGE2, 7.0)
  assert same(transfer(source, target), source)
  # Another visual condition, and masked layers from a network without them.
  out = transfer(drawn(structure(TI2V)[1]), target)
  assert (out['conv_visual']['kernel'] == 7).all()
  plain = drawn(structure(TINY)[1])
  block = transfer(plain, target)['down']['0']['units']['0']['spatial']['block']
  for extra, (norm, attention) in SIBLINGS.items():
    assert same(block[extra]['attention'], block[attention])
    assert same(block[extra]['norm'], block[norm]) and block[extra]['gate'] == 7
  out = transfer(source, filled(TINY, 7.0))
  assert jax.tree.structure(out) == jax.tree.structure(plain)
  assert same(out['up'], source['up']) and same(out['conv_in'], source['conv_in'])


def counts(config, encoders=None):
  model = nnx.eval_shape(lambda: UNet(config, {'clip_l': CLIP_L}, rngs=nnx.Rngs(0)))
  leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
  sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in leaves}
  return [
    sum(size for path, size in sizes.items() if part in path)
    for part in ('', 'motion', 'masked', 'conv_visual', 'gate')
  ]


@pytest.mark.slow
def test_the_full_model_has_the_parameters_of_its_parts():
  everything, motion, masked, visual, gates = counts(UNetConfig(masked_blocks=6, visual_channels=8))
  assert (motion, visual, gates) == (417_137_600, 23_040, 12)
  assert masked == 32_712_960 + gates
  assert everything - motion - visual - masked == 859_520_964
  print(f'stage 2: {everything:,} parameters')


def test_which_blocks_are_masked():
  config = UNetConfig(masked_blocks=6)
  carried = [config.masked(level, unit) for level in range(3) for unit in range(2)]
  assert carried == [MaskedParts(True, True)] * 6
  config = dataclasses.replace(config, masked_blocks=3, masked_cross=False)
  carried = [config.masked(level, unit).self_attention for level in range(3) for unit in range(2)]
  assert carried == [True] * 3 + [False] * 3
  config = UNetConfig(masked_blocks=6, masked_scope='skip_level0')
  assert config.masked(0, 1) == MaskedParts(False, True) and config.masked(1, 0).self_attention
  assert UNetConfig(masked_blocks=6, masked_scope='spatial').masked(0, 0) == MaskedParts(
    True, True, True
  )


def test_masked_attention_within_frames():
  whole, by_frame = STAGE2, dataclasses.replace(STAGE2, masked_scope='spatial')
  params, inputs = drawn(structure(STAGE2)[1]), example_inputs(STAGE2)
  a, b = (predict(structure(config)[0], params, *inputs) for config in (whole, by_frame))
  assert np.isfinite(b).all() and np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize(
  'options, message',
  [
    ({'masked_blocks': 7}, 'masked_blocks must be 0 to 6, got 7'),
    ({'masked_scope': 'spatiotemporl'}, "masked_scope 'spatiotemporl' .*did you mean"),
    ({'motion_norm': 'video'}, "motion_norm 'video' must be one of"),
    ({'remat': 'some'}, "remat 'some' must be one of"),
    ({'widths': (320, 600)}, 'width 600 must be a multiple of heads 8 and of groups 32'),
  ],
)
def test_impossible_sizes(options, message):
  with pytest.raises(ValueError, match=message):
    UNetConfig(**options)


@pytest.mark.parametrize(
  'shape, visual, message',
  [
    ((5, 4, 6, C), 2 * C, '5 latent frames exceed motion_length 4'),
    ((2, 3, 6, C), 2 * C, '3 x 6 cannot be halved 1 times'),
    ((2, 4, 6, C), C, f'takes {C} channels of noisy latents and {2 * C} of visual condition'),
    ((2, 8, 6, C), 2 * C, r'token_masks must be on the grids \[\(2, 8, 6\)\]'),
  ],
)
def test_inputs_that_do_not_fit(shape, visual, message):
  _, t, condition = example_inputs(STAGE2)
  condition = condition.replace(visual=np.zeros((2, *shape[:3], visual), np.float32))
  graphdef, params = structure(STAGE2)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      functools.partial(predict, graphdef), params, np.zeros((2, *shape)), t, condition
    )


@pytest.mark.parametrize('masked', [0, 1])
def test_counted_operations_are_those_of_the_compiled_program(masked):
  config = dataclasses.replace(
    STAGE2, widths=(64, 128), heads=4, groups=8, text_width=96, masked_blocks=masked
  )
  encoders = {'clip_l': TextEncoderSpec(96, 16, 8)}
  graphdef, params = nnx.split(nnx.eval_shape(lambda: UNet(config, encoders, rngs=nnx.Rngs(0))))

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((2, *sizes), dtype)

  def tokens(n):
    return {'clip_l': Tokens(shape(n, 96), shape(n, dtype=jnp.int32))}

  place = shape(4, 8, 8, dtype=jnp.int32)
  condition = Condition(
    tokens(16), shape(4, 8, 8, 2 * C), Objects((TokenMasks(place, place),), tokens(3 * 8))
  )
  compiled = predict.lower(graphdef, params, shape(4, 8, 8, C), shape(), condition).compile()
  counted = forward_flops(config, (4, 8, 8), text=16, prompts=24, allowed=1.0)
  assert compiled.cost_analysis()['flops'] / 2 == pytest.approx(counted, rel=0.1)
