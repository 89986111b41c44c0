"""Wan against `WanTransformer3DModel` of diffusers, and import of open weights."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx

from tests.helpers import pytorch_parity as parity
from tests.helpers import small_wan
from tests.helpers.networks import predict, same
from tests.helpers.small_wan import PLAIN, STAGE2, UMT5, example_inputs, randomized, structure
from ttm_jax.conditioning import Condition
from ttm_jax.errors import InputError
from ttm_jax.models.stacked_transfer import transfer
from ttm_jax.models.wan import convert, original
from ttm_jax.models.wan.model import Wan, WanConfig
from ttm_jax.models.wan.preset import PRESET
from ttm_jax.models.wan.preset import UMT5 as REAL_UMT5
from ttm_jax.nn.rope import grid_rotation, rotate

SHAPES = ((1, 4, 4), (3, 8, 6), (2, 4, 10))
SIZES = {
  '1.3b': ({}, 1_418_996_800),
  '5b': ({'width': 3072, 'ffn': 14336, 'heads': 24, 'channels': 48}, 4_999_787_712),
  '14b': ({'width': 5120, 'layers': 40, 'ffn': 13824, 'heads': 40}, 14_288_491_584),
}


def count(config):
  model = nnx.eval_shape(lambda: Wan(config, {'umt5': REAL_UMT5}, rngs=nnx.Rngs(0)))
  return sum(x.size for x in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))))


@pytest.mark.parametrize('name', SIZES)
def test_number_of_parameters(name):
  sizes, wanted = SIZES[name]
  config = WanConfig(**sizes)
  assert count(config) == wanted
  wider = dataclasses.replace(config, visual_channels=2 * config.channels)
  assert count(wider) - wanted == config.width * 2 * config.channels * 4


def test_input_channels_of_the_smallest_size():
  assert count(WanConfig(visual_channels=32)) - count(WanConfig()) == 196_608


def imported(model):
  """Return our parameters of a module of diffusers."""
  tensors = {name: x.detach().numpy() for name, x in model.state_dict().items()}
  weights = convert.Weights('here', dict(model.config), tensors)
  return jax.tree.map(np.asarray, PRESET.torch.from_torch(weights, structure(PLAIN)[1]))


@torch.no_grad()
def theirs(model, x_t, t, condition):
  """Return the prediction of a module of diffusers."""
  text = condition.text['umt5']
  padded = np.where(text.bits[..., None] != 0, text.embedding, 0).astype(np.float32)
  if t.ndim == 2:  # One time for each token.
    t = np.repeat(t, x_t.shape[2] * x_t.shape[3] // 4, axis=1)
  out = model(parity.channels_first(x_t), parity.tensor(t), parity.tensor(padded)).sample
  return parity.channels_last(out)


@pytest.mark.parametrize('latents', SHAPES)
@pytest.mark.parametrize('by_frame', [False, True], ids=['2.1', '2.2, time per token'])
def test_same_predictions_as_diffusers(latents, by_frame):
  for seed in range(3):
    model = small_wan.original(seed=seed)
    x_t, t, condition = example_inputs(PLAIN, False, seed, latents=latents)
    if by_frame:
      t = np.stack([np.linspace(0, 900, latents[0]), np.full(latents[0], 40)]).astype(np.float32)
    wanted = theirs(model, x_t, t, condition)
    got = predict(structure(PLAIN)[0], imported(model), x_t, t, condition)
    found = parity.drift(got, wanted)
    print(f'{latents}, seed {seed}: {found:.1e}')
    assert np.std(wanted) > 0.3 and found < 1e-4


def test_rotary_positions_are_those_of_diffusers():
  for head_dim in (12, 64, 128):
    sizes = dataclasses.replace(PLAIN, width=2 * head_dim)
    if head_dim == 128:
      assert sizes.rotated == (44, 42, 42)
    rope = small_wan.original(sizes).rope
    cos, sin = rope(torch.zeros(1, 1, 5, 8, 6))
    ours = grid_rotation((5, 4, 3), sizes.rotated)
    np.testing.assert_allclose(ours.cos, cos[0, :, 0, 0::2], atol=1e-6)
    np.testing.assert_allclose(ours.sin, sin[0, :, 0, 1::2], atol=1e-6)
  x = np.random.default_rng(0).normal(size=(1, 60, 2, 128)).astype(np.float32)
  turned = np.asarray(rotate(x, ours))
  np.testing.assert_allclose((turned**2).sum(-1), (x**2).sum(-1), rtol=1e-5)
  assert np.abs(turned[:, 0] - x[:, 0]).max() < 1e-6 < np.abs(turned[:, -1] - x[:, -1]).max()


def test_modules_are_those_of_diffusers():
  """Time, text, attention and block, each on its own."""
  model, params = small_wan.original(seed=5), imported(small_wan.original(seed=5))
  network = nnx.merge(structure(PLAIN)[0], jax.tree.map(jnp.asarray, params))
  rng = np.random.default_rng(0)
  t = np.array([3.0, 500.0, 999.0], np.float32)
  text = rng.normal(size=(3, 7, 6)).astype(np.float32)
  with torch.no_grad():
    time, projected, embedded, _ = model.condition_embedder(
      torch.from_numpy(t), torch.from_numpy(text)
    )
  np.testing.assert_allclose(network.time(t), time, atol=1e-4)
  np.testing.assert_allclose(network.modulation(jax.nn.silu(network.time(t))), projected, atol=1e-4)
  np.testing.assert_allclose(network.text.mlp(text), embedded, atol=1e-4)
  first = jax.tree.map(lambda x: x[0], nnx.state(network.blocks))
  block = nnx.merge(nnx.graphdef(network.blocks), first)
  h = rng.normal(size=(3, 6, 24)).astype(np.float32)
  rotation = grid_rotation((1, 2, 3), PLAIN.rotated)
  with torch.no_grad():
    turned = model.rope(torch.zeros(1, 1, 1, 4, 6))
    wanted = model.blocks[0].attn1(torch.from_numpy(h), None, None, turned)
    crossed = model.blocks[0].attn2(torch.from_numpy(h), embedded, None, None)
  np.testing.assert_allclose(block.attn(jnp.asarray(h), rotation=rotation), wanted, atol=1e-4)
  np.testing.assert_allclose(
    block.cross_attn(jnp.asarray(h), jnp.asarray(embedded)), crossed, atol=1e-4
  )


def stage2_of(params, config=STAGE2):
  """Return stage 2, initialized from the parameters of a text-to-video network."""
  target = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), structure(config)[1])
  return transfer(params, target)


@pytest.mark.parametrize('objects', [True, False], ids=['sorted tokens', 'raster order'])
@pytest.mark.parametrize('by_frame', [False, True])
def test_stage_2_begins_as_the_text_to_video_network(objects, by_frame):
  plain = imported(small_wan.original(seed=1))
  x_t, t, condition = example_inputs(STAGE2, objects, 3)
  if by_frame:
    t = np.stack([np.linspace(0, 900, 3), np.full(3, 40)]).astype(np.float32)
  wanted = predict(structure(PLAIN)[0], plain, x_t, t, Condition(condition.text))
  params = stage2_of(plain)
  got = predict(structure(STAGE2)[0], params, x_t, t, condition)
  assert parity.drift(got, wanted) < 1e-5
  for name in ('masked_attn', 'masked_cross_attn'):
    params['masked_blocks'][name]['gate'] = np.ones(2, np.float32)
    opened = predict(structure(STAGE2)[0], params, x_t, t, condition)
    assert np.abs(opened - got).max() > 1e-2
    got = opened


def test_masked_layers_are_local_to_objects():
  """A change of the tokens of object 2 in a network of masked layers does not reach object 1."""
  config = dataclasses.replace(PLAIN, layers=1, masked_blocks=1)
  params = randomized(config, 0)
  block = params['masked_blocks']
  for name in ('attn', 'cross_attn'):  # Only the masked layers mix tokens.
    block[name]['out'] = jax.tree.map(np.zeros_like, block[name]['out'])
  x_t, t, condition = example_inputs(config, True, 1)
  region = condition.objects.token_masks[0].region
  upsampled = region.repeat(2, 2).repeat(2, 3)[..., None]
  changed = np.where(upsampled == 4, x_t + 1, x_t)
  a, b = (predict(structure(config)[0], params, x, t, condition) for x in (x_t, changed))
  moved = np.abs(a - b).max(-1) > 1e-6
  assert moved[upsampled[..., 0] == 4].all() and not moved[upsampled[..., 0] != 4].any()


def test_one_text_encoder_is_needed():
  with pytest.raises(InputError, match='reads one text encoder, the dataset has 2'):
    Wan(PLAIN, UMT5 | small_wan.WORDS, rngs=nnx.Rngs(0))


# Open weights.


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A text-to-video model in the layout of diffusers, in two shards."""
  path = tmp_path_factory.mktemp('wan')
  model = small_wan.original(seed=2)
  model.save_pretrained(path / 'transformer', max_shard_size='40KB')
  assert len(list((path / 'transformer').glob('*.safetensors'))) > 2
  return path


def test_open_weights_in_shards(folder):
  assert same(
    jax.tree.map(np.asarray, convert.open_weights(str(folder), STAGE2)),
    imported(small_wan.original(seed=2)),
  )


def original_names(tensors):
  """Rename tensors of diffusers to the names of the original repository."""
  found = {}
  for name, tensor in tensors.items():
    for pattern, theirs in reversed(original.NAMES):
      plain = pattern.replace('\\', '').strip('^$')
      ours = theirs.replace('\\1', r'(attn\d)').replace('\\2', '(q|k|v)').replace('.', r'\.')
      if '(' in plain:
        plain = plain.replace('(attnd)', r'\1').replace('(q|k|v)', r'\2')
      if pattern.startswith('^'):
        ours = f'^{ours}'
      if pattern.endswith('$') and not pattern.startswith('^'):
        ours = f'{ours}$'
      name = re.sub(ours, plain, name)
    found[name] = tensor
  return found


def test_open_weights_of_the_original_repository(folder, tmp_path):
  model = small_wan.original(seed=2)
  tensors = {name: x.detach().numpy() for name, x in model.state_dict().items()}
  renamed = {}
  for name, x in tensors.items():
    renamed[name] = x
  names = original_names(renamed)
  assert 'head.modulation' in names and 'blocks.1.cross_attn.norm_q.weight' in names
  assert 'blocks.0.norm3.weight' in names and 'time_projection.1.bias' in names
  safetensors.numpy.save_file(
    {k: np.ascontiguousarray(v) for k, v in names.items()},
    tmp_path / 'diffusion_pytorch_model.safetensors',
  )
  (tmp_path / 'config.json').write_text(
    json.dumps({'_class_name': 'WanModel', 'model_type': 't2v', 'num_heads': PLAIN.heads})
  )
  got = jax.tree.map(np.asarray, convert.open_weights(str(tmp_path), PLAIN))
  assert same(got, imported(model))
  (tmp_path / 'config.json').unlink()
  # A file alone does not tell the number of heads: those of published sizes have 128 channels.
  with pytest.raises(InputError, match='heads is 1 there, 2 is needed'):
    convert.open_weights(str(tmp_path / 'diffusion_pytorch_model.safetensors'), PLAIN)


def test_an_image_to_video_checkpoint_is_refused(tmp_path):
  small_wan.original(in_channels=36, image_dim=5, added_kv_proj_dim=24).save_pretrained(tmp_path)
  with pytest.raises(InputError, match=r'image-to-video checkpoint \(36 input channels\): take'):
    convert.open_weights(str(tmp_path), PLAIN)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'layers': 2}, r'layers is 3 there, 2 is needed \(--config.model.layers\)'),
    ({'width': 48, 'heads': 4}, 'width is 24 there, 48 is needed'),
    ({'channels': 5}, 'channels is 3 there, 5 is needed'),
  ],
)
def test_another_size_is_refused(folder, change, message):
  with pytest.raises(InputError, match=message):
    convert.open_weights(str(folder), dataclasses.replace(PLAIN, **change))


@pytest.mark.parametrize(
  'field, value', [('eps', 1e-5), ('qk_norm', None), ('patch_size', [1, 1, 1]), ('freq_dim', 128)]
)
def test_another_architecture_is_refused(folder, tmp_path, field, value):
  copy = shutil.copytree(folder / 'transformer', tmp_path / 'copy')
  config = json.loads((copy / 'config.json').read_text())
  (copy / 'config.json').write_text(json.dumps(config | {field: value}))
  with pytest.raises(InputError, match=f'another architecture: {field} is'):
    convert.open_weights(str(copy), PLAIN)


def test_a_missing_shard(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  lost = sorted((copy / 'transformer').glob('*-00002-of-*.safetensors'))[0]
  lost.unlink()
  with pytest.raises(InputError, match=f'{lost.name} is missing'):
    convert.open_weights(str(copy), PLAIN)
