"""The transformer in PyTorch and in JAX: same weights, same inputs, same outputs."""

import dataclasses
import functools

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax import nnx

from tests.helpers import pytorch_parity as parity
from tests.helpers.small_dit import (
  ENCODERS,
  STAGE2,
  C,
  example_inputs,
  from_torch,
  module,
  randomized,
  structure,
  to_torch,
)
from ttm_jax import conditioning
from ttm_jax.conditioning import EVERYONE, Condition, Objects, Tokens
from ttm_jax.errors import InputError
from ttm_jax.models.dit import convert as pretrained
from ttm_jax.pretrained.weights import Weights, read
from ttm_jax.pytorch import conditioning as theirs
from ttm_jax.pytorch.dit import TTMTransformer
from ttm_jax.text.encoders import caption_tokens, prompt_tokens

TI2V = dataclasses.replace(STAGE2, visual_channels=C)
PLAIN = dataclasses.replace(STAGE2, masked_blocks=0, visual_channels=0)
CASES = {
  'stage 2': (STAGE2, True),
  'stage 1, K = 0': (dataclasses.replace(STAGE2, masked_blocks=0), False),
  'TI2V': (TI2V, False),
  'text to video': (PLAIN, False),
  'masked cross alone': (dataclasses.replace(STAGE2, masked_self=False), True),
  'masked self alone, no norm of queries': (
    dataclasses.replace(STAGE2, masked_cross=False, qk_norm=False),
    True,
  ),
}

# Compiled programs run on tiny inputs here.
jit = functools.partial(
  jax.jit,
  compiler_options={'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True},
)


@jit(static_argnums=0)
def predict(graphdef, params, x_t, t, condition):
  return nnx.merge(graphdef, params)(x_t, t, condition)


@torch.no_grad()
def in_torch(model, x_t, t, condition):
  out = model(parity.channels_first(x_t), parity.tensor(t), parity.condition(condition))
  assert out.dtype == torch.float32
  return parity.channels_last(out)


@pytest.mark.parametrize('case', CASES)
def test_same_predictions(case):
  config, objects = CASES[case]
  for seed in range(3):
    params, inputs = randomized(config, seed), example_inputs(config, objects, seed + 10)
    wanted = predict(structure(config)[0], params, *inputs)
    assert np.std(wanted) > 0.5
    found = parity.drift(in_torch(module(config, params), *inputs), wanted)
    print(f'{case}, seed {seed}: {found:.1e}')
    assert found < 1e-4


@pytest.mark.parametrize('implementation', ['dense', 'chunked'])
def test_same_however_attention_is_computed(implementation, monkeypatch):
  monkeypatch.setattr('ttm_jax.pytorch.attention.CHUNK', 8)
  model, inputs = module(STAGE2, randomized(STAGE2, 0)), example_inputs(STAGE2, True, 1)
  wanted = in_torch(model, *inputs)
  model.attention = implementation
  np.testing.assert_allclose(in_torch(model, *inputs), wanted, atol=1e-4)


def test_half_precision_drifts_as_ours():
  params, inputs = randomized(STAGE2, 0), example_inputs(STAGE2, True, 1)
  model = module(STAGE2, params)
  single = in_torch(model, *inputs)
  half = dataclasses.replace(STAGE2, dtype='bfloat16')
  ours = predict(structure(half)[0], params, *inputs)

  def error(x):
    return np.std(x - single) / np.std(single)

  # As in JAX: products in bfloat16, small arrays in float32.
  model = half_precision(model)
  mixed = in_torch(model, *inputs)
  all_of_it = in_torch(model.to(torch.bfloat16), *inputs)
  print(
    f'relative error in bfloat16: JAX {error(ours):.4f}, PyTorch {error(mixed):.4f},'
    f' with all parameters in bfloat16 {error(all_of_it):.4f}'
  )
  assert 1e-4 < error(mixed) < 0.03 and 1e-4 < error(ours) < 0.03
  assert error(all_of_it) < 0.1


def half_precision(model):
  """Convert as `from_pretrained(torch_dtype=torch.bfloat16)` does."""
  kept = set(TTMTransformer.FLOAT32)
  for name, parameter in model.named_parameters():
    if not kept & set(name.split('.')):
      parameter.data = parameter.data.to(torch.bfloat16)
  return model


def test_names():
  names = [name for name, _ in to_torch(randomized(STAGE2, 0))]
  assert len(set(names)) == len(names)
  for name in (
    'blocks.0.attn.query.weight',
    'masked_blocks.1.cross_attn.key_norm.weight',
    'masked_blocks.1.masked_attn.attention.out.weight',
    'masked_blocks.0.masked_cross_attn.alpha',
    'masked_blocks.0.ffn.gate.weight',
    'text.words.attention.value.weight',
    'text.projections.t5.weight',
    'positions.h',
    'modulation.bias',
  ):
    assert name in names


def tree_bytes(params):
  leaves = jax.tree.leaves_with_path(params)
  return {jax.tree_util.keystr(p): (x.dtype, x.shape, np.asarray(x).tobytes()) for p, x in leaves}


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize('config', [STAGE2, PLAIN], ids=['stage 2', 'plain'])
def test_round_trip_is_exact(config, dtype):
  params = jax.tree.map(lambda x: x.astype(dtype), randomized(config, 0))
  tensors = dict(to_torch(params))
  assert all(x.flags.c_contiguous for x in tensors.values())
  back = from_torch(Weights('there', {}, tensors), structure(config)[1])
  assert tree_bytes(back) == tree_bytes(jax.tree.map(lambda x: x.astype(np.float32), params))
  again = dict(to_torch(back))
  assert list(again) == list(tensors)
  assert all(again[k].astype(dtype).tobytes() == x.tobytes() for k, x in tensors.items())


def test_one_tensor_is_held_at_a_time():
  """The source may be read from a file leaf by leaf."""
  asked = []

  class Lazy:
    def __init__(self, name, array):
      self.name, self.array, self.shape = name, array, array.shape

    def __array__(self, dtype=None, copy=None):
      asked.append(self.name)
      return self.array

  params = randomized(STAGE2, 0)
  lazy = jax.tree_util.tree_map_with_path(lambda p, x: Lazy(jax.tree_util.keystr(p), x), params)
  stream = to_torch(lazy)
  name, first = next(stream)
  assert len(asked) == 1 and not np.shares_memory(first, params['blocks']['ffn']['up']['kernel'])
  rest = dict(stream)
  assert len(asked) == len(set(asked)) == len(jax.tree.leaves(params))
  for found, wanted in zip([(name, first), *rest.items()], to_torch(params), strict=True):
    assert found[0] == wanted[0]
    np.testing.assert_array_equal(found[1], wanted[1])


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda t: t.pop('blocks.0.ffn.up.weight'), 'blocks.0.ffn.up.weight is missing'),
    (lambda t: t.update({'blocks.9.table': t['blocks.0.table']}), 'blocks.9.table has no place'),
    (lambda t: t.update({'head.bias': t['head.weight']}), r'head.bias is \[12, 32\]'),
  ],
)
def test_tensors_that_do_not_fit(change, message):
  tensors = dict(to_torch(randomized(PLAIN, 0)))
  change(tensors)
  with pytest.raises(InputError, match=message):
    from_torch(Weights('there', {}, tensors), structure(PLAIN)[1])


def test_saved_and_loaded(tmp_path):
  params, inputs = randomized(STAGE2, 0), example_inputs(STAGE2, True, 1)
  model = module(STAGE2, params)
  model.save_pretrained(tmp_path)
  weights = read(tmp_path)
  assert pretrained.config_from_torch(weights) == (
    dataclasses.replace(STAGE2, dtype='bfloat16', remat='full'),
    ENCODERS,
  )
  assert list(pretrained.config_from_torch(weights)[1]) == ['words', 't5']
  assert tree_bytes(from_torch(weights, structure(STAGE2)[1])) == tree_bytes(params)
  loaded = TTMTransformer.from_pretrained(tmp_path)
  np.testing.assert_array_equal(in_torch(loaded, *inputs), in_torch(model, *inputs))
  half = TTMTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
  wanted = half_precision(model)
  for (name, got), (_, x) in zip(half.named_parameters(), wanted.named_parameters(), strict=True):
    assert got.dtype == x.dtype and torch.equal(got, x), name
  np.testing.assert_array_equal(in_torch(half, *inputs), in_torch(wanted, *inputs))


def test_written_by_numpy_read_by_torch(tmp_path):
  tensors = dict(to_torch(randomized(STAGE2, 0)))
  safetensors.numpy.save_file(tensors, tmp_path / 'x.safetensors')
  found = safetensors.torch.load_file(tmp_path / 'x.safetensors')
  model = TTMTransformer(**pretrained.config_to_torch(STAGE2, ENCODERS))
  assert model.load_state_dict(found).missing_keys == []
  assert model.masked_blocks[0].masked_attn.alpha.shape == ()


def test_begins_as_ours():
  torch.manual_seed(0)
  model = TTMTransformer(**pretrained.config_to_torch(STAGE2, ENCODERS))
  block = model.masked_blocks[1]
  assert block.masked_attn.alpha == 0
  assert torch.equal(
    block.masked_cross_attn.attention.key.weight, block.cross_attn.key.weight
  ) and not torch.equal(block.attn.key.weight, block.cross_attn.key.weight)
  assert not model.head.weight.any() and not model.modulation.weight.any()
  assert not model.embed_visual.weight.any() and model.embed.weight.std() < 0.03
  assert torch.allclose(block.table.mean(1), torch.tensor([0.0, 0, 1, 0, 0, 1]), atol=0.02)


def test_can_be_trained():
  params, inputs = randomized(STAGE2, 0), example_inputs(STAGE2, True, 1)
  model = module(STAGE2, params)
  x_t, t, condition = inputs
  given = parity.channels_first(x_t), parity.tensor(t), parity.condition(condition)

  def gradients():
    model.zero_grad()
    model(*given).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}

  kept = gradients()
  model.enable_gradient_checkpointing()
  model.train()
  recomputed = gradients()
  for name, gradient in kept.items():
    assert gradient.isfinite().all() and gradient.any(), name
    torch.testing.assert_close(recomputed[name], gradient)


def test_shapes_that_do_not_fit():
  model, (x_t, t, condition) = (
    module(STAGE2, randomized(STAGE2, 0)),
    example_inputs(STAGE2, True, 0),
  )
  with pytest.raises(ValueError, match=r'latents of \(2, 16, 6\) exceed the grid \(3, 8, 8\)'):
    in_torch(model, np.concatenate([x_t, x_t], 2), t, condition)
  with pytest.raises(ValueError, match=r'3 channels of noisy latents and 6 of visual .* 3 and 0'):
    in_torch(model, x_t, t, condition.replace(visual=None))


def toy(x_t, t, condition):
  """Predict from all inputs; in NumPy, JAX and PyTorch."""
  out = x_t * t[:, None, None, None, None] + 3 * condition.visual[..., :C, :, :, :]
  for tokens in (*condition.text.values(), *condition.objects.prompts.values()):
    out = out + (tokens.embedding.sum((1, 2)) * tokens.bits.sum(1))[:, None, None, None, None]
  (masks,) = condition.objects.token_masks
  return out + (masks.region * 2 + masks.present).sum((1, 2, 3))[:, None, None, None, None]


@pytest.mark.parametrize('scales', [(1, 1, 0), (1.5, 4.0, 0), (2.0, 3.0, 0.7)])
def test_same_guidance(scales):
  x_t, t, condition = example_inputs(STAGE2, True, 0)
  rng = np.random.default_rng(1)
  t5 = {'t5': condition.text['t5']}, {'t5': condition.objects.prompts['t5']}
  token_masks = condition.objects.token_masks
  condition = Condition(t5[0], condition.visual, Objects(token_masks, t5[1]))
  null = Condition(
    {'t5': Tokens(rng.normal(size=(1, 5, 6)), np.array([[EVERYONE, 0, 0, 0, 0]], np.int32))},
    objects=Objects((), {'t5': Tokens(rng.normal(size=(1, 6, 6)), np.array([[2, 0, 4, 0, 8, 0]]))}),
  )

  def ours(x_t, t, condition):
    moved = condition.replace(visual=np.moveaxis(condition.visual, -1, 1))
    return np.moveaxis(np.asarray(toy(np.moveaxis(x_t, -1, 1), t, moved)), 1, -1)

  wanted = conditioning.guided(ours, condition, null, *scales)(x_t, t)
  run = theirs.guided(toy, parity.condition(condition), parity.condition(null), *scales)
  got = run(parity.channels_first(x_t), parity.tensor(t))
  assert parity.drift(parity.channels_last(got), wanted) < 1e-5


def test_tokens_of_texts_are_ours():
  rng = np.random.default_rng(0)
  caption, length = rng.normal(size=(2, 4, 3)), np.array([4, 1])
  prompts, counts = rng.integers(0, 9, (2, 3, 2)), np.array([[2, 0, 1], [0, 0, 2]])
  for name, arrays in (
    ('caption_tokens', (caption, length)),
    ('prompt_tokens', (prompts, counts)),
  ):
    ours = {'caption_tokens': caption_tokens, 'prompt_tokens': prompt_tokens}[name](*arrays)
    got = getattr(theirs, name)(*map(parity.tensor, arrays))
    np.testing.assert_array_equal(got.embedding, ours.embedding)
    np.testing.assert_array_equal(got.bits, ours.bits)
    assert got.bits.dtype == torch.int32
