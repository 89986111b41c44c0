"""The autoencoders of Wan against diffusers, through their files in both formats."""

import inspect

import jax
import numpy as np
import pytest
import safetensors.numpy

from tests.helpers.small_wan_vae import CONFIGS, decode, drawn, encode, tensors, video, write
from ttm_jax.codecs import wan_vae_convert as convert
from ttm_jax.codecs.registry import ENTRIES
from ttm_jax.codecs.wan_vae import WAN21, WAN22
from ttm_jax.errors import InputError
from ttm_jax.pretrained.fields import Free, Only
from ttm_jax.pretrained.weights import WEIGHTS, Weights, read_file

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers  # noqa: E402

from tests.helpers import pytorch_parity as parity  # noqa: E402

NAMES = sorted(CONFIGS)


def arguments(config):
  """Return the constructor arguments of diffusers' class for a configuration."""
  return {k: v for k, v in convert.config_to_diffusers(config).items() if k != '_class_name'}


def theirs(codec):
  """Return diffusers' model with the weights of a codec."""
  model = diffusers.AutoencoderKLWan(**arguments(codec.config)).eval()
  model.load_state_dict({name: parity.tensor(x) for name, x in tensors(codec).items()})
  return model


def same(a, b):
  assert a.config == b.config
  jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(a), jax.tree.leaves(b))


@pytest.mark.parametrize('shape', [(1, 16, 8, 2), (5, 8, 16, 1), (9, 16, 24, 1)], ids=str)
@pytest.mark.parametrize('name', NAMES)
def test_it_encodes_and_decodes_as_diffusers_does(name, shape):
  mean, std = (np.float32(x) for x in (CONFIGS[name].mean, CONFIGS[name].std))
  worst = []
  for seed in range(3):
    codec, pixels = drawn(CONFIGS[name], seed), video(*shape, seed=seed)
    model = theirs(codec)
    moments = encode(codec, pixels)
    shown = decode(codec, moments.mean, shape[0])
    with torch.no_grad():
      wanted = model.encode(parity.channels_first(pixels)).latent_dist
      decoded = model.decode(parity.channels_first(moments.mean * std + mean)).sample
    found = moments.mean * std + mean, moments.logvar + 2 * np.log(std), shown
    wanted = wanted.mean, wanted.logvar, decoded
    errors = [parity.drift(x, parity.channels_last(y)) for x, y in zip(found, wanted, strict=True)]
    assert np.std(shown) > 0.1
    worst = np.maximum(worst, errors) if len(worst) else errors
  print(f'{name} {shape}: means {worst[0]:.1e}, logvar {worst[1]:.1e}, pixels {worst[2]:.1e}')
  assert max(worst) < 1e-4


@pytest.mark.parametrize('name', NAMES)
def test_folders_of_diffusers(tmp_path, name):
  codec = drawn(CONFIGS[name])
  theirs(codec).save_pretrained(tmp_path / 'vae')
  for source in (tmp_path, tmp_path / 'vae'):
    again = ENTRIES[name].open_weights(str(source))
    same_weights(again, codec)
  written = safetensors.numpy.load_file(tmp_path / 'vae' / WEIGHTS)
  jax.tree.map(np.testing.assert_array_equal, tensors(codec), written)


def same_weights(a, b):
  """Compare codecs; tile sizes are not in the files."""
  assert convert.config_to_diffusers(a.config) == convert.config_to_diffusers(b.config)
  jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(a), jax.tree.leaves(b))


def test_weights_in_half_precision(tmp_path):
  codec = drawn(CONFIGS['wan21_vae'])
  theirs(codec).to(torch.bfloat16).save_pretrained(tmp_path)
  again = convert.load(str(tmp_path))
  for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(codec), strict=True):
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=1e-2)


@pytest.mark.parametrize('name', NAMES)
def test_single_files_of_the_original_repository(tmp_path, name):
  codec = drawn(CONFIGS[name])
  path = tmp_path / 'vae.safetensors'
  safetensors.numpy.save_file(tensors(codec, original=True), path)
  same(convert.from_original(read_file(path), codec.config), codec)
  same(convert.load(str(path), expected=codec.config), codec)
  other = next(n for n in NAMES if n != name)
  generations = {'wan21_vae': 'Wan 2.1', 'wan22_vae': 'Wan 2.2'}
  with pytest.raises(
    InputError,
    match=f'holds the autoencoder of {generations[name]}, that of {generations[other]} is needed:'
    f' write --codec {name}:{path}',
  ):
    ENTRIES[other].open_weights(str(path))
  stray = {**tensors(codec, original=True), 'encoder.extra': np.zeros(3, np.float32)}
  safetensors.numpy.save_file(stray, path)
  with pytest.raises(InputError, match=r'tensor encoder\.extra has no place in the model'):
    convert.load(str(path), expected=codec.config)


def test_names_of_the_original_repository():
  names = [
    {theirs: e.ours for e in convert.table(WAN21, original) for theirs in e.theirs}
    for original in (False, True)
  ]
  assert convert_wan_vae_to_diffusers(dict(names[1])) == names[0]
  found = {theirs for e in convert.table(WAN22, True) for theirs in e.theirs}
  assert {
    'encoder.conv1.weight',
    'encoder.downsamples.0.downsamples.0.residual.0.gamma',
    'encoder.downsamples.1.downsamples.0.shortcut.weight',
    'encoder.downsamples.1.downsamples.2.resample.1.weight',
    'encoder.downsamples.1.downsamples.2.time_conv.bias',
    'encoder.downsamples.3.downsamples.1.residual.6.bias',
    'encoder.middle.1.to_qkv.weight',
    'encoder.head.0.gamma',
    'conv1.weight',
    'conv2.bias',
    'decoder.conv1.bias',
    'decoder.middle.0.residual.2.weight',
    'decoder.upsamples.0.upsamples.3.time_conv.weight',
    'decoder.upsamples.2.upsamples.3.resample.1.bias',
    'decoder.upsamples.3.upsamples.2.residual.3.gamma',
    'decoder.head.2.weight',
  } <= found
  assert 'encoder.downsamples.0.downsamples.2.time_conv.weight' not in found


def test_the_other_generation(tmp_path):
  for name, other in (NAMES, NAMES[::-1]):
    source = write(tmp_path / name / 'vae', drawn(CONFIGS[name]))
    (tmp_path / name / 'vae' / WEIGHTS).write_bytes(b'')  # Refused before the tensors are read.
    with pytest.raises(InputError, match=f'is needed: write --codec {name}:{source}'):
      ENTRIES[other].open_weights(str(tmp_path / name))


def test_what_is_not_such_an_autoencoder(tmp_path):
  codec = drawn(CONFIGS['wan21_vae'])
  load = ENTRIES['wan21_vae'].open_weights
  with pytest.raises(InputError, match=r'VAE.pth is a pickled checkpoint, which can run code'):
    load(str(tmp_path / 'Wan2.1_VAE.pth'))
  with pytest.raises(InputError, match=r'nothing.safetensors is not a folder'):
    load(str(tmp_path / 'nothing.safetensors'))
  source = write(tmp_path / 'other', codec, _class_name='WanModel')
  with pytest.raises(InputError, match='holds a WanModel, an AutoencoderKLWan is needed: name a'):
    load(source)
  source = write(tmp_path / 'lost', codec)
  some = tensors(codec)
  some.pop('decoder.up_blocks.0.upsamplers.0.time_conv.bias')
  safetensors.numpy.save_file(some, tmp_path / 'lost' / WEIGHTS)
  with pytest.raises(InputError, match=r'upsamplers\.0\.time_conv\.bias is missing'):
    load(source)
  (tmp_path / 'lost' / WEIGHTS).rename(tmp_path / 'lost' / 'model.bin')
  with pytest.raises(InputError, match=r'model\.bin is a pickled checkpoint'):
    load(source)
  safetensors.numpy.save_file(tensors(codec, original=True), tmp_path / 'file.safetensors')
  with pytest.raises(InputError, match=r'tensor \S+ is \[\d+.*, the model needs'):
    load(str(tmp_path / 'file.safetensors'))  # Not of the size of the release.
  (tmp_path / 'file.safetensors').write_bytes(b'no tensors')
  with pytest.raises(InputError, match='is not a complete safetensors file'):
    load(str(tmp_path / 'file.safetensors'))


# Values of each field besides those of the small autoencoder of 2.1.
OTHERS = {
  'base_dim': [16],
  'decoder_base_dim': [12, None],
  'z_dim': [4],
  'dim_mult': [[1, 1, 2], [1, 2, 2, 2]],
  'num_res_blocks': [2],
  'attn_scales': [[1.0], [0.5]],
  'temperal_downsample': [[True, False], [False, True], [True, True, True]],
  'dropout': [0.3],
  'latents_mean': [[0.0, 1.0, 2.0], [0.0] * 4, 'none'],
  'latents_std': [[1.0, 2.0, 3.0], [1.0, 0.0, 1.0], [1.0]],
  'is_residual': [True, 1],
  'in_channels': [12],
  'out_channels': [12],
  'patch_size': [2, 1, None, 0],
  'scale_factor_temporal': [8, None],
  'scale_factor_spatial': [16, None],
  'clip_output': [False, True],
}


def test_every_field_has_a_rule():
  found = inspect.signature(diffusers.AutoencoderKLWan.__init__).parameters.values()
  defaults = {p.name: p.default for p in found if p.name != 'self'}
  table = convert.fields(4, 3)
  # Configurations of 2.2 have a field that the class of today no longer reads.
  assert set(table) == set(defaults) | {'clip_output'} == set(OTHERS)
  for name, rule in table.items():
    if isinstance(rule, Only):
      assert tuple(np.atleast_1d(rule.default)) == tuple(np.atleast_1d(defaults[name])), name
    elif isinstance(rule, Free):
      assert len(rule.reason) > 10
    else:
      ours = convert._DEFAULTS[name]
      assert (list(ours) if isinstance(ours, tuple) else ours) == defaults[name], name


@pytest.mark.parametrize(
  'name, value', [(name, value) for name, values in OTHERS.items() for value in values], ids=str
)
def test_a_field_is_honored_or_refused(tmp_path, name, value):
  codec = drawn(CONFIGS['wan21_vae'])
  usual = convert.config_to_diffusers(codec.config)
  weights = Weights(tmp_path, usual | {name: value}, tensors(codec))
  try:
    found = convert.config_to_diffusers(convert.config_from_diffusers(weights))
  except InputError as error:
    # A field that is consistent in itself may contradict another one.
    other = {'dim_mult': 'temperal_downsample', 'patch_size': 'in_channels'}
    other |= dict.fromkeys(('z_dim', 'latents_mean', 'latents_std'), 'of the latents must be')
    assert any(word in str(error) for word in (name, other.get(name, name)))
    assert not isinstance(convert.fields(3, 3)[name], Free)
    return
  if value is None or isinstance(convert.fields(3, 3)[name], Free):
    assert found == usual
  else:
    assert (found[name] or 1) == value
