"""The autoencoders of Wan in PyTorch against JAX, through exported codecs."""

import dataclasses
import functools
import json

import diffusers
import jax
import numpy as np
import pytest
import torch

from tests.helpers import exported
from tests.helpers import pytorch_parity as parity
from tests.helpers.small_wan_vae import CONFIGS, decode, drawn, encode, video
from ttm_jax.errors import InputError
from ttm_jax.exported_folder import read_codec
from ttm_jax.exporting import codecs
from ttm_jax.exporting.dtypes import DTYPES
from ttm_jax.exporting.files import write_tensors
from ttm_jax.exporting.folder import export
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.pytorch.loading import check_fields, load_component
from ttm_jax.pytorch.pipeline import TTMPipeline
from ttm_jax.pytorch.wan_codec import TTMWanCodec

NAMES = sorted(CONFIGS)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Return a function that exports the small codec of a name once; it returns the folder."""

  @functools.cache
  def export(name):
    path = tmp_path_factory.mktemp(name)
    (path / 'codec').mkdir()
    parts = codecs.parts(drawn(CONFIGS[name]))
    config = {'_class_name': parts.network, **parts.config}
    (path / 'codec' / 'config.json').write_text(json.dumps(config))
    write_tensors(path / 'codec', parts.specs, parts.tensors(), DTYPES['fp32'])
    assert parts.network == 'TTMWanCodec'
    return path

  return export


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_it_encodes_and_decodes_as_ours(folder, name):
  ours, pixels = drawn(CONFIGS[name]), video(5)
  theirs = load_component(folder(name), 'codec', 'TTMWanCodec', None)
  wanted = encode(ours, pixels)
  posterior = theirs.encode(parity.channels_first(pixels)).latent_dist
  shown = decode(ours, wanted.mean, 5)
  latents = parity.channels_first(wanted.mean)
  errors = [
    parity.drift(parity.channels_last(x), y)
    for x, y in (
      (posterior.mode(), wanted.mean),
      (posterior.logvar, wanted.logvar),
      (theirs.decode(latents, 5).sample, shown),
      (theirs.decode(latents).sample, shown),
    )
  ]
  print(f'{name}:', *(f'{error:.1e}' for error in errors))
  assert max(errors) < 1e-4 and np.std(shown) > 0.1
  assert theirs.stride == (4, *ours.stride)
  assert theirs.frame_groups(9).tolist() == ours.frame_groups(9).tolist()


@pytest.mark.parametrize('name', NAMES)
def test_its_folder_is_that_of_diffusers_and_comes_back(folder, name):
  path = folder(name) / 'codec'
  _, info = diffusers.AutoencoderKLWan.from_pretrained(path, output_loading_info=True)
  assert not info['missing_keys'] and not info['unexpected_keys']
  back = read_codec(folder(name))
  wanted = drawn(CONFIGS[name])
  assert dataclasses.replace(back.config, tile=wanted.config.tile) == wanted.config
  jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(back), jax.tree.leaves(wanted))


@torch.no_grad()
def test_memory_options_and_half_precision(folder):
  theirs = load_component(folder('wan22_vae'), 'codec', 'TTMWanCodec', None)
  pixels = parity.channels_first(video(5, 32, 48, batch=2))
  latents = theirs.encode(pixels).latent_dist.mode()
  whole = theirs.decode(latents).sample
  theirs.enable_slicing()
  torch.testing.assert_close(theirs.encode(pixels).latent_dist.mode(), latents)
  torch.testing.assert_close(theirs.decode(latents, 5).sample, whole)
  theirs.enable_tiling(32, 32, 24, 24)
  tiled = theirs.decode(latents).sample
  assert tiled.shape == whole.shape and 0 < (tiled - whole).std() < 0.3 * whole.std()
  half = load_component(folder('wan22_vae'), 'codec', 'TTMWanCodec', torch.bfloat16)
  found = half.encode(pixels).latent_dist.mode()
  assert found.dtype == half.decode(latents).sample.dtype == torch.float32
  assert 1e-4 < (found - latents).std() / latents.std() < 0.1


def test_a_pipeline_gives_the_video_of_ours(tmp_path, capsys):
  codec, frames = drawn(CONFIGS['wan21_vae']), 5
  where = exported.context('dit', made=codec, frames=frames)
  paths = []
  for number in (exported.STAGE1, exported.STAGE2):
    settings = exported.config('dit', number, model__channels=codec.channels)
    params = exported.parameters(settings, where, number)
    paths.append(exported.save_run(tmp_path / f'stage{number + 1}', settings, where, params))
  export(*paths, tmp_path / 'pair', dtype='fp32')
  ours = Pipeline(Stage(paths[0], STAGE1), Stage(paths[1], STAGE2))
  request = exported.request()
  ids = np.stack([np.roll(request.mask, shift, 1) for shift in range(frames)])
  wanted = ours.videos([request], ids[None], 6)
  pipe = TTMPipeline.from_pretrained(tmp_path / 'pair')
  pipe.set_progress_bar_config(disable=True)
  assert isinstance(pipe.codec, TTMWanCodec) and pipe.config.video['latents'] == [3, 2, 4, 4]
  begin = parity.channels_first(jax.random.normal(ours.stage2.key(6), (1, 2, 4, 4, 3)))
  output = pipe(**exported.arguments(), trajectory=ids, latents=begin, output_type='np')
  difference = np.abs(np.round(output.frames * 255) - wanted).mean()
  with capsys.disabled():
    print(f'\npipeline with wan21_vae: mean difference in levels of 255: {difference:.4f}')
  assert difference < 0.1 and wanted.std() > 10 and wanted.shape[1] == frames


def test_what_does_not_fit(folder):
  theirs = load_component(folder('wan21_vae'), 'codec', 'TTMWanCodec', None)
  with pytest.raises(InputError, match=r'4 frames do not fit .* 4 n \+ 1 frames: use 1 or 5'):
    theirs.encode(torch.zeros(1, 3, 4, 16, 16))
  with pytest.raises(InputError, match=r'use 125 or 129'):
    theirs.frame_groups(128)
  with pytest.raises(InputError, match='frame width 18 is not a multiple of the codec stride 4'):
    theirs.encode(torch.zeros(1, 3, 5, 16, 18))
  with pytest.raises(ValueError, match='2 latent frames are those of 5 frames, not of 8'):
    theirs.decode(torch.zeros(1, 3, 2, 4, 4), 8)


def test_fields_that_the_class_does_not_know(folder, tmp_path):
  config = json.loads((folder('wan21_vae') / 'codec' / 'config.json').read_text())
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(config))
  check_fields(TTMWanCodec, path)
  path.write_text(json.dumps({**config, 'new_switch': 1}))
  with pytest.raises(InputError, match='new_switch is set, which a TTMWanCodec does not compute'):
    check_fields(TTMWanCodec, path)
