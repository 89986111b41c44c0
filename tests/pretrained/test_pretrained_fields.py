"""Every field of the configs of open weights, against the models of diffusers that have them.

A field may change what a model computes and leave the shapes of its tensors unchanged. With each
value below, either our network computes the same as that of diffusers, or the reader refuses the
field by name.
"""

import functools
import inspect
import json

import jax
import numpy as np
import pytest
from flax import nnx

from ttm_jax.codecs import sd_vae_convert as sd_vae
from ttm_jax.codecs.sd_vae import SDVAEConfig
from ttm_jax.conditioning import Condition
from ttm_jax.errors import InputError
from ttm_jax.models.unet import open_weights
from ttm_jax.models.unet.model import UNet, UNetConfig
from ttm_jax.pretrained.fields import TENSORS, Free, Only, check
from ttm_jax.text.encoders import TextEncoderSpec, caption_tokens

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

SIZES = UNetConfig(
  widths=(8, 16), units=1, heads=2, groups=4, text_width=6, dtype='float32', remat='none'
)
ENCODERS = {'clip_l': TextEncoderSpec(SIZES.text_width, 3, 3)}
FRAMES = 2
TOLERANCE = 1e-4

BASE = {
  'image': {
    'block_out_channels': (8, 16),
    'down_block_types': ('CrossAttnDownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D'),
    'layers_per_block': 1,
    'norm_num_groups': 4,
    'attention_head_dim': 2,
    'cross_attention_dim': 6,
  },
  'motion': {
    'block_out_channels': (8, 16),
    'down_block_types': ('CrossAttnDownBlockMotion', 'DownBlockMotion'),
    'up_block_types': ('UpBlockMotion', 'CrossAttnUpBlockMotion'),
    'layers_per_block': 1,
    'norm_num_groups': 4,
    'num_attention_heads': 2,
    'motion_num_attention_heads': 2,
    'cross_attention_dim': 6,
    'use_motion_mid_block': False,
  },
  'adapter': {
    'block_out_channels': (8, 16),
    'motion_layers_per_block': 1,
    'motion_norm_num_groups': 4,
    'motion_num_attention_heads': 2,
    'use_motion_mid_block': False,
  },
  'vae': {
    'block_out_channels': (16, 16),
    'down_block_types': ('DownEncoderBlock2D',) * 2,
    'up_block_types': ('UpDecoderBlock2D',) * 2,
    'norm_num_groups': 4,
  },
}

CLASSES = {
  'image': diffusers.UNet2DConditionModel,
  'motion': diffusers.UNetMotionModel,
  'adapter': diffusers.MotionAdapter,
  'vae': diffusers.AutoencoderKL,
}

# Other values of each field. If diffusers also refuses one, our reader must name the field.
SHARED = {
  'sample_size': [64, [8, 8]],
  'in_channels': [5],
  'out_channels': [5],
  'block_out_channels': [(16, 16)],
  'layers_per_block': [2, (1, 1)],
  'downsample_padding': [0],
  'mid_block_scale_factor': [2.0],
  'act_fn': ['gelu', 'relu', 'swish', 'mish'],
  'norm_num_groups': [2, 8],
  'norm_eps': [0.1],
  'cross_attention_dim': [8],
  'transformer_layers_per_block': [2],
  'reverse_transformer_layers_per_block': [[1, 1], [2, 2]],
  'use_linear_projection': [True],
  'encoder_hid_dim': [8],
  'encoder_hid_dim_type': ['text_proj'],
  'addition_embed_type': ['text', 'text_time'],
  'addition_time_embed_dim': [8],
  'projection_class_embeddings_input_dim': [8],
  'time_cond_proj_dim': [8],
}
OTHERS = {
  'image': {
    **SHARED,
    'center_input_sample': [True],
    'flip_sin_to_cos': [False],
    'freq_shift': [1],
    'down_block_types': [('DownBlock2D', 'DownBlock2D'), ('SimpleCrossAttnDownBlock2D',) * 2],
    'mid_block_type': ['UNetMidBlock2D', None],
    'up_block_types': [('UpBlock2D', 'UpBlock2D')],
    'only_cross_attention': [True, [True, False], [False, False]],
    'dropout': [0.5],
    'attention_head_dim': [4, (2, 2), (2, 4)],
    'num_attention_heads': [4, 2],
    'dual_cross_attention': [True],
    'class_embed_type': ['timestep', 'identity'],
    'num_class_embeds': [3],
    'upcast_attention': [True],
    'resnet_time_scale_shift': ['scale_shift'],
    'resnet_skip_time_act': [True],
    'resnet_out_scale_factor': [2.0],
    'time_embedding_type': ['fourier'],
    'time_embedding_dim': [32, 64],
    'time_embedding_act_fn': ['silu'],
    'timestep_post_act': ['silu'],
    'conv_in_kernel': [1],
    'conv_out_kernel': [1],
    'attention_type': ['gated'],
    'class_embeddings_concat': [True],
    'mid_block_only_cross_attention': [True, False],
    'cross_attention_norm': ['layer_norm'],
    'addition_embed_type_num_heads': [2],
  },
  'motion': {
    **SHARED,
    'down_block_types': [('DownBlockMotion', 'DownBlockMotion')],
    'up_block_types': [('UpBlockMotion', 'UpBlockMotion')],
    'num_attention_heads': [4, (2, 2), (4, 2)],
    'temporal_transformer_layers_per_block': [2],
    'reverse_temporal_transformer_layers_per_block': [[1, 1], [2, 2]],
    'transformer_layers_per_mid_block': [1, 2],
    'temporal_transformer_layers_per_mid_block': [2],
    'motion_max_seq_length': [32, 64],
    'motion_num_attention_heads': [4, (2, 2)],
    'reverse_motion_num_attention_heads': [4, (2, 2)],
    'use_motion_mid_block': [True],
    'mid_block_layers': [2],
  },
  'adapter': {
    'block_out_channels': [(16, 16)],
    'motion_layers_per_block': [2],
    'motion_transformer_layers_per_block': [2],
    'motion_mid_block_layers_per_block': [2],
    'motion_transformer_layers_per_mid_block': [2],
    'motion_num_attention_heads': [4, (2, 2)],
    'motion_norm_num_groups': [2],
    'motion_max_seq_length': [64],
    'use_motion_mid_block': [True],
    'conv_in_channels': [9],
  },
  'vae': {
    'in_channels': [4],
    'out_channels': [4],
    'down_block_types': [('AttnDownEncoderBlock2D', 'DownEncoderBlock2D')],
    'up_block_types': [('AttnUpDecoderBlock2D', 'UpDecoderBlock2D')],
    'block_out_channels': [(16, 32), (24, 16)],
    'layers_per_block': [2],
    'act_fn': ['gelu', 'relu', 'swish', 'mish'],
    'latent_channels': [8],
    'norm_num_groups': [2, 8],
    'sample_size': [512],
    'scaling_factor': [0.5, 0.13025],
    'shift_factor': [0.1, 0.0],
    'latents_mean': [[0.1] * 4],
    'latents_std': [[2.0] * 4],
    'force_upcast': [False],
    'use_quant_conv': [False],
    'use_post_quant_conv': [False],
    'mid_block_add_attention': [False],
  },
}

TABLES = {
  'image': open_weights.image_fields(SIZES, {}),
  'motion': open_weights.motion_fields(SIZES),
  'adapter': open_weights.adapter_fields(SIZES),
  'vae': sd_vae.fields(2),
}


def arguments(kind):
  """Return the fields of a class of diffusers, with the defaults that it uses."""
  found = inspect.signature(CLASSES[kind].__init__).parameters.values()
  return {p.name: p.default for p in found if p.name != 'self'}


@pytest.mark.parametrize('kind', CLASSES)
def test_every_field_has_a_rule(kind):
  assert set(TABLES[kind]) == set(arguments(kind)) == set(OTHERS[kind])
  for name, rule in TABLES[kind].items():
    assert not isinstance(rule, Free) or len(rule.reason) > 10, name


@pytest.mark.parametrize('kind', ['image', 'motion', 'adapter'])
def test_what_is_absent_is_taken_as_diffusers_takes_it(kind):
  """The defaults of the tables are those of the classes: those of a full-size network fit."""
  sizes = UNetConfig()
  table = {
    'image': open_weights.image_fields(sizes, {}),
    'motion': open_weights.motion_fields(sizes),
    'adapter': open_weights.adapter_fields(sizes),
  }[kind]
  for name, rule in table.items():
    default = arguments(kind)[name]
    if isinstance(rule, Only) and rule.default is not TENSORS:
      assert rule.default == default, name


def shaken(model):
  """Draw all weights of a model at random, including those of norms and zero-initialized ones."""
  generator = torch.Generator().manual_seed(1)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
  return model.eval()


def build(kind, **changes):
  torch.manual_seed(0)
  return shaken(CLASSES[kind](**{**BASE[kind], **changes}))


def inputs():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, FRAMES, 4, 6, 4)).astype(np.float32)
  text = rng.normal(size=(1, 3, SIZES.text_width)).astype(np.float32)
  return x, text, np.array([700.0], np.float32)


@functools.cache
def network():
  """Return our network's structure, its initial parameters, and its prediction with random ones."""
  model = UNet(SIZES, ENCODERS, rngs=nnx.Rngs(0))
  graphdef = nnx.graphdef(model)
  x, text, t = inputs()
  condition = Condition({'clip_l': caption_tokens(text, np.array([3]))})

  @jax.jit
  def predict(params):
    return nnx.merge(graphdef, params)(x, t, condition)

  return nnx.to_pure_dict(nnx.state(model, nnx.Param)), predict


def ours(source):
  params = jax.tree.map(np.asarray, open_weights.load(source, SIZES))
  whole, predict = network()
  return np.asarray(predict(put(whole, params)))


def put(whole, some):
  """Update a nested dict with another one that has a subset of its keys."""
  if not isinstance(whole, dict):
    return some
  return {k: put(v, some[k]) if k in some else v for k, v in whole.items()}


def theirs(model):
  x, text, t = inputs()
  rows = torch.from_numpy(x.reshape(-1, *x.shape[2:]).transpose(0, 3, 1, 2).copy())
  texts = torch.from_numpy(text).repeat_interleave(FRAMES, 0)
  with torch.no_grad():
    if isinstance(model, diffusers.UNetMotionModel):
      video = torch.from_numpy(x.transpose(0, 4, 1, 2, 3).copy())
      return model(video, torch.from_numpy(t), texts).sample.numpy().transpose(0, 2, 3, 4, 1)
    times = torch.from_numpy(t).repeat(FRAMES)
    return model(rows, times, texts).sample.numpy().transpose(0, 2, 3, 1).reshape(x.shape)


def differs(got, wanted):
  return float(np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max())


def unet_difference(kind, folder, changes):
  """Return how much ours differs from a network of diffusers with these changes."""
  try:
    model = build(kind, **changes)
  except Exception as error:  # diffusers itself cannot make these: only the file has the value.
    return edited(kind, folder, changes, error)
  if kind == 'adapter':
    image = build('image')
    image.save_pretrained(folder / 'unet')
    model.save_pretrained(folder / 'adapter')
    got = ours(f'{folder},{folder}/adapter')
    return differs(got, theirs(diffusers.UNetMotionModel.from_unet2d(image, model).eval()))
  model.save_pretrained(folder)
  got = ours(str(folder))
  return differs(got, theirs(model))


def edited(kind, folder, changes, error):
  """Read a model of which only the file was changed; it must be refused or have no effect."""
  model = build(kind)
  model.save_pretrained(folder)
  config = json.loads((folder / 'config.json').read_text()) | changes
  (folder / 'config.json').write_text(json.dumps(config))
  if kind == 'vae':
    return vae_difference_of(model, folder)
  return differs(ours(str(folder)), theirs(model))


def cases(*kinds):
  return [
    pytest.param(kind, name, value, id=f'{kind}-{name}-{value}')
    for kind in kinds
    for name, values in OTHERS[kind].items()
    for value in values
  ]


def test_without_a_change_they_agree(tmp_path):
  for kind in ('image', 'motion', 'adapter'):
    assert unet_difference(kind, tmp_path / kind, {}) < TOLERANCE
  assert vae_difference_of(build('vae'), tmp_path / 'vae', save=True) < TOLERANCE


@pytest.mark.parametrize('kind, name, value', cases('image', 'motion', 'adapter'))
def test_a_field_of_a_unet_is_honored_or_refused(kind, name, value, tmp_path):
  check_case(kind, name, lambda: unet_difference(kind, tmp_path, {name: value}))


def vae_difference_of(model, folder, save=False):
  if save:
    model.save_pretrained(folder)
  codec = sd_vae.load(str(folder))
  rng = np.random.default_rng(0)
  clip = rng.uniform(-1, 1, (1, 1, 8, 12, 3)).astype(np.float32)
  frame = torch.from_numpy(clip[0].transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    mean = model.encode(frame).latent_dist.mean
    shown = model.decode(mean).sample.clip(-1, 1)
  # Pipelines of diffusers shift and scale.
  scaled = (mean - (model.config.shift_factor or 0)) * model.config.scaling_factor
  got = codec.encode(clip).mean

  def rows(x):
    return x.numpy().transpose(0, 2, 3, 1)[None]

  return max(differs(got, rows(scaled)), differs(codec.decode(got, 1), rows(shown)))


@pytest.mark.parametrize('kind, name, value', cases('vae'))
def test_a_field_of_an_autoencoder_is_honored_or_refused(kind, name, value, tmp_path):
  def difference():
    try:
      model = build('vae', **{name: value})
    except Exception as error:
      return edited('vae', tmp_path, {name: value}, error)
    return vae_difference_of(model, tmp_path, save=True)

  check_case(kind, name, difference)


def check_case(kind, name, difference):
  rule = TABLES[kind][name]
  try:
    found = difference()
  except InputError as error:
    assert name in str(error), f'refused, but not by its name: {error}'
    assert not isinstance(rule, Free)
  else:
    assert found < TOLERANCE


# Values that were once accepted, but computed differently.
@pytest.mark.parametrize(
  'kind, name, value',
  [
    ('image', 'flip_sin_to_cos', False),
    ('image', 'freq_shift', 1),
    ('image', 'act_fn', 'gelu'),
    ('image', 'mid_block_scale_factor', 2.0),
    ('image', 'center_input_sample', True),
    ('image', 'norm_eps', 0.1),
    ('motion', 'act_fn', 'relu'),
    ('motion', 'mid_block_scale_factor', 2.0),
    ('motion', 'reverse_motion_num_attention_heads', (4, 4)),
    ('vae', 'act_fn', 'relu'),
    ('vae', 'latents_mean', [0.1] * 4),
    ('vae', 'shift_factor', 0.1),
  ],
)
def test_switches_that_leave_shapes_alone_are_refused(kind, name, value, tmp_path):
  build(kind, **{name: value}).save_pretrained(tmp_path)
  with pytest.raises(InputError, match=f'{name} is .* there'):
    sd_vae.load(str(tmp_path)) if kind == 'vae' else open_weights.load(str(tmp_path), SIZES)


def test_fields_that_nobody_knows(tmp_path):
  build('image').save_pretrained(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  for value in (None, False, [], {}, ''):  # Switched off.
    (tmp_path / 'config.json').write_text(json.dumps({**config, 'new_switch': value}))
    open_weights.load(str(tmp_path), SIZES)
  for value in (True, 1, 0.5, 'on', [1], {'a': 1}, 0):
    (tmp_path / 'config.json').write_text(json.dumps({**config, 'new_switch': value}))
    with pytest.raises(InputError, match=r'new_switch is .*, a field that is not known here'):
      open_weights.load(str(tmp_path), SIZES)


@pytest.mark.parametrize('nested', ['[' * 900 + ']' * 900, '[[[[2]]]]', '{"a": 2}', '"2"', '1e999'])
def test_values_of_another_kind_are_refused_by_name(nested, tmp_path):
  value = json.loads(nested)
  for name, rule in TABLES['image'].items():
    if isinstance(rule, Only):
      with pytest.raises(InputError, match=f'{name} is '):
        check(tmp_path, {**BASE['image'], name: value}, TABLES['image'])


@pytest.mark.parametrize(
  'name, value',
  [
    ('block_out_channels', 'many'),
    ('block_out_channels', []),
    ('block_out_channels', [0, 16]),
    ('block_out_channels', [16] * 10**5),
    ('block_out_channels', [True, 16]),
    ('layers_per_block', 10**9),
    ('layers_per_block', -1),
    ('layers_per_block', 1.5),
    ('latent_channels', None),
    ('latent_channels', 0),
    ('scaling_factor', 0),
    ('scaling_factor', float('nan')),
    ('scaling_factor', '0.18215'),
    ('norm_num_groups', {}),
  ],
)
def test_sizes_of_an_autoencoder_that_are_none(name, value, tmp_path):
  build('vae').save_pretrained(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text()) | {name: value}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(InputError, match=name):
    sd_vae.load(str(tmp_path))


def test_the_default_scale_is_that_of_diffusers():
  assert arguments('vae')['scaling_factor'] == SDVAEConfig.scale
  assert {k: arguments('vae')[k] for k in sd_vae._DEFAULTS} == {
    **sd_vae._DEFAULTS,
    'block_out_channels': (64,),
  }
