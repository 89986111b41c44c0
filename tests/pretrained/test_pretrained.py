"""Faulty open weights: one error message each. Made here without PyTorch."""

import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from tests.helpers import cli, tiny
from ttm_jax.codecs import sd_vae_convert as sd_vae
from ttm_jax.codecs.sd_vae import SDVAE, SDVAEConfig
from ttm_jax.errors import InputError
from ttm_jax.models.unet import open_weights
from ttm_jax.models.unet.model import UNet, UNetConfig
from ttm_jax.models.unet.motion import positions
from ttm_jax.pretrained import names
from ttm_jax.pretrained.weights import WEIGHTS

CONFIG = UNetConfig(widths=(8, 16), units=1, heads=2, groups=4, text_width=6)
IMAGE = {
  '_class_name': 'UNet2DConditionModel',
  'in_channels': 4,
  'out_channels': 4,
  'block_out_channels': [8, 16],
  'layers_per_block': 1,
  'norm_num_groups': 4,
  'cross_attention_dim': 6,
  'attention_head_dim': 2,
}
ADAPTER = {
  '_class_name': 'MotionAdapter',
  'block_out_channels': [8, 16],
  'motion_layers_per_block': 1,
  'motion_norm_num_groups': 4,
  'motion_num_attention_heads': 2,
  'use_motion_mid_block': False,
  'conv_in_channels': None,
}
PE = 'down_blocks.0.motion_modules.0.transformer_blocks.0.pos_embed.pe'


@functools.cache
def tensors():
  """Return the tensors of the image network and of the motion adapter."""
  model = nnx.eval_shape(lambda: UNet(CONFIG, {}, rngs=nnx.Rngs(0)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32),
    nnx.to_pure_dict(nnx.state(model, nnx.Param)),
  )
  every = names.export_tensors(open_weights.table(CONFIG), params)
  motion = {name: x for name, x in every.items() if 'motion' in name}
  image = {name: x for name, x in every.items() if 'motion' not in name}
  return params, image, {**motion, PE: positions(32, 8)[None]}


def write(folder, config, arrays, file=WEIGHTS):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  safetensors.numpy.save_file(arrays, folder / file)
  return str(folder)


@pytest.fixture
def image(tmp_path):
  return lambda arrays=None, **changes: write(
    tmp_path / 'sd' / 'unet', IMAGE | changes, tensors()[1] if arrays is None else arrays
  )


@pytest.fixture
def adapter(tmp_path):
  return lambda arrays=None, **changes: write(
    tmp_path / 'motion', ADAPTER | changes, tensors()[2] if arrays is None else arrays
  )


def test_two_folders_are_one_network(image, adapter, tmp_path):
  image()
  params = open_weights.load(f'{tmp_path}/sd, {adapter()}', CONFIG)
  jax.tree.map(np.testing.assert_array_equal, params, tensors()[0])
  # One number for a list of equal ones; absent fields, which the tensors determine.
  old = {k: v for k, v in IMAGE.items() if k != 'layers_per_block'} | {'attention_head_dim': [2, 2]}
  write(tmp_path / 'sd' / 'unet', old, tensors()[1])
  both = open_weights.load(f'{tmp_path}/sd, {tmp_path}/motion', CONFIG)
  jax.tree.map(np.testing.assert_array_equal, both, params)


def without(arrays, name):
  return {k: v for k, v in arrays.items() if k != name}


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'in_channels': 9}, 'inpainting U-Net .9 input channels.: take the text-to-image one, with 4'),
    ({'cross_attention_dim': 1024}, 'cross_attention_dim is 1024 there, 6 is needed'),
    (
      {'block_out_channels': [8, 32]},
      r'block_out_channels is \(8, 32\) there, \(8, 16\) is needed',
    ),
    ({'use_linear_projection': True}, 'use_linear_projection is True there'),
    ({'attention_head_dim': [2, 4]}, r'attention_head_dim is \(?\[?2, 4\]?\)? there, 2 is needed'),
    ({'_class_name': 'AutoencoderKL'}, 'holds a AutoencoderKL, one of .* is needed'),
    ({'norm_eps': 'small'}, "norm_eps is 'small' there, 1e-05 is needed"),
    ({'norm_num_groups': None}, 'norm_num_groups is None there, 4 is needed'),
    ({'flip_sin_to_cos_': True}, r'flip_sin_to_cos_ is True .* not known here .*"flip_sin_to_cos"'),
  ],
)
def test_another_image_network(image, changes, message):
  with pytest.raises(InputError, match=message):
    open_weights.load(image(**changes), CONFIG)


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'use_motion_mid_block': True},
      'use_motion_mid_block.: it has a motion module in the middle, as AnimateDiff v2: take v3',
    ),
    ({'conv_in_channels': 9}, 'as PIA: take AnimateDiff v3'),
    ({'motion_num_attention_heads': 4}, 'motion_num_attention_heads is 4 there, 2 is needed'),
    ({'_class_name': 'UNet2DConditionModel'}, 'a MotionAdapter is needed'),
  ],
)
def test_another_motion_adapter(image, adapter, changes, message):
  with pytest.raises(InputError, match=message):
    open_weights.load(f'{image()},{adapter(**changes)}', CONFIG)


def test_every_tensor_is_accounted_for(image, adapter):
  _, arrays, modules = tensors()
  with pytest.raises(InputError, match=r'tensor conv_in.bias is missing'):
    open_weights.load(image(without(arrays, 'conv_in.bias')), CONFIG)
  with pytest.raises(InputError, match=r'tensor conv_out.bias is \[3\], the model needs \[4\]'):
    open_weights.load(image(arrays | {'conv_out.bias': np.zeros(3, np.float32)}), CONFIG)
  extra = {'conv_in.biased': np.zeros(3, np.float32)}
  with pytest.raises(
    InputError, match=r'conv_in.biased has no place .*did you mean "conv_in.bias"'
  ):
    open_weights.load(image(arrays | extra), CONFIG)
  image()
  with pytest.raises(InputError, match=r'pos_embed.pe is \[1, 16, 8\]: .* 16 frames apart'):
    open_weights.load(f'{image()},{adapter(modules | {PE: positions(16, 8)[None]})}', CONFIG)
  with pytest.raises(InputError, match=r'pos_embed.pe is not the sinusoid'):
    open_weights.load(f'{image()},{adapter(modules | {PE: positions(32, 8)[None] + 1})}', CONFIG)


def test_files_that_cannot_be_read(image, tmp_path):
  folder = tmp_path / 'sd' / 'unet'
  image()
  whole = (folder / WEIGHTS).read_bytes()
  (folder / WEIGHTS).write_bytes(whole[:-100])
  with pytest.raises(InputError, match=r'not a complete safetensors file .*copy it again'):
    open_weights.load(str(tmp_path / 'sd'), CONFIG)
  (folder / WEIGHTS).unlink()
  with pytest.raises(InputError, match=rf'holds no weights: {WEIGHTS} is missing'):
    open_weights.load(str(folder), CONFIG)
  (folder / 'diffusion_pytorch_model.bin').write_bytes(b'')
  with pytest.raises(InputError, match=r'\.bin is a pickled checkpoint.* save_pretrained'):
    open_weights.load(str(folder), CONFIG)
  (folder / 'diffusion_pytorch_model.bin').unlink()
  half = {name: x.astype(np.float16) for name, x in tensors()[1].items()}
  write(folder, IMAGE, half, 'diffusion_pytorch_model.fp16.safetensors')
  with pytest.raises(
    InputError, match=rf'only half-precision weights .*take the full ones, {WEIGHTS}'
  ):
    open_weights.load(str(folder), CONFIG)
  with pytest.raises(InputError, match=r'tensor .* is F16, training starts from full precision'):
    open_weights.load(image(half), CONFIG)
  (folder / 'config.json').unlink()
  with pytest.raises(InputError, match=r'holds no model: config.json is missing'):
    open_weights.load(str(folder), CONFIG)


def test_shards(tmp_path):
  arrays = tensors()[1]
  folder = tmp_path / 'unet'
  every = sorted(arrays)
  files = ['diffusion_pytorch_model-00001-of-00002.safetensors', 'other.safetensors']
  for i, file in enumerate(files):
    write(folder, IMAGE, {name: arrays[name] for name in every[i::2]}, file)
  index = {name: files[i % 2] for i, name in enumerate(every)}
  (folder / f'{WEIGHTS}.index.json').write_text(json.dumps({'weight_map': index}))
  params = open_weights.load(str(tmp_path), CONFIG)
  np.testing.assert_array_equal(
    params['conv_in']['kernel'], arrays['conv_in.weight'].transpose(2, 3, 1, 0)
  )
  write(folder, IMAGE, {name: arrays[name] for name in every[3::2]}, files[1])
  with pytest.raises(
    InputError, match=rf'lists the tensor {every[1]}, which other.safetensors lacks'
  ):
    open_weights.load(str(tmp_path), CONFIG)
  (folder / files[1]).unlink()
  with pytest.raises(InputError, match=r'other.safetensors is missing, which .*index.json lists'):
    open_weights.load(str(tmp_path), CONFIG)


FP16 = 'diffusion_pytorch_model.fp16.safetensors'
SHARD = 'diffusion_pytorch_model-00002-of-00002.safetensors'


def half():
  return {name: x.astype(np.float16) for name, x in tensors()[1].items()}


def sharded(folder):
  index = dict.fromkeys(tensors()[1], SHARD)
  write(folder, IMAGE, {}, 'diffusion_pytorch_model-00001-of-00002.safetensors')
  (folder / f'{WEIGHTS}.index.json').write_text(json.dumps({'weight_map': index}))


def pickled(folder):
  write(folder, IMAGE, {})
  (folder / WEIGHTS).rename(folder / 'diffusion_pytorch_model.bin')


# Faulty folders: a function that makes each, and its error message.
SENTENCES = {
  'an empty folder': (
    lambda folder: folder.mkdir(),
    '{folder} holds no model: config.json is missing',
  ),
  'a folder without weights': (
    lambda folder: (write(folder, IMAGE, {}), (folder / WEIGHTS).unlink()),
    '{folder} holds no weights: diffusion_pytorch_model.safetensors is missing',
  ),
  'an inpainting U-Net': (
    lambda folder: write(folder, IMAGE | {'in_channels': 9}, tensors()[1]),
    '{folder} holds an inpainting U-Net (9 input channels): take the text-to-image one, with 4',
  ),
  'a pickle': (
    pickled,
    '{folder}/diffusion_pytorch_model.bin is a pickled checkpoint, which can run code when it is'
    ' opened: convert it once, where you trust it, with diffusers (from_single_file or'
    ' from_pretrained, then save_pretrained(FOLDER, safe_serialization=True)), and give that'
    ' folder',
  ),
  'half precision by name': (
    lambda folder: write(folder, IMAGE, half(), FP16),
    '{folder} has only half-precision weights (diffusion_pytorch_model.fp16.safetensors): take the'
    ' full ones, diffusion_pytorch_model.safetensors',
  ),
  'half precision inside': (
    lambda folder: write(folder, IMAGE, half()),
    '{folder}/diffusion_pytorch_model.safetensors: tensor conv_in.bias is F16, training starts from'
    ' full precision (F32): take the files without "fp16" in their names',
  ),
  'a lost shard': (
    sharded,
    '{folder}/diffusion_pytorch_model-00002-of-00002.safetensors is missing, which'
    ' diffusion_pytorch_model.safetensors.index.json lists: copy the complete folder again',
  ),
}


@pytest.mark.parametrize('case', SENTENCES)
def test_what_users_read(case, tmp_path):
  make, sentence = SENTENCES[case]
  folder = tmp_path / 'unet'
  make(folder)
  with pytest.raises(InputError) as caught:
    open_weights.load(str(folder), CONFIG)
  assert str(caught.value) == sentence.format(folder=folder)


def test_what_users_of_other_adapters_and_checkpoints_read(image, adapter, tmp_path):
  with pytest.raises(InputError) as caught:
    open_weights.load(f'{image()},{adapter(use_motion_mid_block=True)}', CONFIG)
  assert str(caught.value) == (
    f'{tmp_path}/motion cannot be used (use_motion_mid_block): it has a motion module in the'
    ' middle, as AnimateDiff v2: take v3 (guoyww/animatediff-motion-adapter-v1-5-3) or v1, which'
    ' have none'
  )
  with pytest.raises(InputError) as caught:
    open_weights.load('v3_sd15_mm.ckpt', CONFIG)
  assert str(caught.value) == (
    'v3_sd15_mm.ckpt is a pickled checkpoint, which can run code when it is opened: convert it'
    ' once, where you trust it, with diffusers (from_single_file or from_pretrained, then'
    ' save_pretrained(FOLDER, safe_serialization=True)), and give that folder'
  )
  image()
  file = tmp_path / 'sd' / 'unet' / WEIGHTS
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(InputError) as caught:
    open_weights.load(str(tmp_path / 'sd'), CONFIG)
  begin, end = (
    f'{file} is not a complete safetensors file (',
    '): it was perhaps cut off, copy it again',
  )
  assert str(caught.value).startswith(begin) and str(caught.value).endswith(end)


@pytest.mark.parametrize(
  'source, message',
  [
    ('v3_sd15_mm.ckpt', 'v3_sd15_mm.ckpt is a pickled checkpoint, which can run code'),
    ('/nowhere/at/all', '/nowhere/at/all is not a folder with config.json'),
    ('a,b,c', 'give the U-Net and, after a comma, the motion adapter'),
  ],
)
def test_sources_that_are_none(source, message):
  with pytest.raises(InputError, match=message):
    open_weights.load(source, CONFIG)


def test_the_hub_out_of_reach(monkeypatch):
  import sys
  import types

  hub = types.ModuleType('huggingface_hub')
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  with pytest.raises(InputError, match=r'to fetch it from the hub, pip install huggingface_hub'):
    open_weights.load('someone/model', CONFIG)
  asked = []

  def snapshot_download(repository, allow_patterns):
    asked.append((repository, allow_patterns))
    raise OSError('no route to host')

  hub.snapshot_download = snapshot_download
  with pytest.raises(InputError, match=r'could not be fetched from the hub \(no route to host\)'):
    open_weights.load('someone/model', CONFIG)
  assert asked[0][0] == 'someone/model' and f'unet/{WEIGHTS}' in asked[0][1]


def test_an_autoencoder_of_another_kind(tmp_path):
  config = SDVAEConfig(base_channels=16, multipliers=(1, 2), res_blocks=1)
  model = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: SDVAE(config, rngs=nnx.Rngs(0)))))
  arrays = names.export_tensors(
    sd_vae.table(config), jax.tree.map(lambda x: np.zeros(x.shape, np.float32), model)
  )
  described = {
    '_class_name': 'AutoencoderKL',
    'block_out_channels': [16, 16],
    'layers_per_block': 1,
    'latent_channels': 4,
    'norm_num_groups': 4,
  }
  with pytest.raises(InputError, match=r'is .*, the model needs'):
    sd_vae.load(write(tmp_path / 'vae', described, arrays))
  described['norm_num_groups'] = 8
  with pytest.raises(InputError, match=r'norm_num_groups 8 does not fit block_out_channels'):
    sd_vae.load(write(tmp_path / 'vae', described, arrays))
  described['_class_name'] = 'AutoencoderKLWan'
  with pytest.raises(InputError, match=r'holds a AutoencoderKLWan, an AutoencoderKL is needed'):
    sd_vae.load(write(tmp_path / 'vae', described, arrays))


def test_the_front_door_refuses_in_one_sentence(unet_latents, latents, tmp_path):
  changes = {'init_from': 'pretrained:v3_sd15_mm.ckpt'}
  ended = cli.run(*tiny.train_command('stage1_unet', tmp_path / 'run', unet_latents, **changes))
  assert (ended.code, ended.out) == (2, '')
  assert ended.err.startswith('error: v3_sd15_mm.ckpt is a pickled checkpoint')
  ended = cli.run(*tiny.train_command('stage1_dit', tmp_path / 'run', latents, **changes))
  assert ended.err.startswith('error: v3_sd15_mm.ckpt is not an exported folder')
