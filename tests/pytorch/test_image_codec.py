"""Stable Diffusion's autoencoder in PyTorch against JAX, through an exported codec."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from ttm_jax.codecs import sd_vae_convert as sd_vae
from ttm_jax.codecs.sd_vae import SDVAE, SDVAEConfig
from ttm_jax.errors import InputError
from ttm_jax.exporting import codecs
from ttm_jax.exporting.dtypes import DTYPES
from ttm_jax.exporting.files import write_tensors

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from tests.helpers import pytorch_parity as parity  # noqa: E402
from ttm_jax.pytorch.image_codec import TTMImageCodec  # noqa: E402

torch.set_num_threads(1)
CONFIG = SDVAEConfig(base_channels=16, multipliers=(1, 1), res_blocks=1, scale=0.3)


@pytest.fixture(scope='module')
def ours():
  graphdef, state = nnx.split(nnx.eval_shape(lambda: SDVAE(CONFIG, rngs=nnx.Rngs(0))))
  rng = np.random.default_rng(0)

  def drawn(path, leaf):
    spread = 0.1 * rng.normal(size=leaf.shape)
    return np.asarray(spread + ('scale' in str(path[-1])), np.float32)

  params = jax.tree_util.tree_map_with_path(drawn, nnx.to_pure_dict(state))
  nnx.replace_by_pure_dict(state, jax.tree.map(jax.numpy.asarray, params))
  return nnx.merge(graphdef, state)


@pytest.fixture(scope='module')
def folder(ours, tmp_path_factory):
  path = tmp_path_factory.mktemp('codec')
  parts = codecs.parts(ours)
  (path / 'config.json').write_text(json.dumps({'_class_name': parts.network, **parts.config}))
  write_tensors(path, parts.specs, parts.tensors(), DTYPES['fp32'])
  return path


def test_it_encodes_and_decodes_as_ours(ours, folder):
  theirs, info = TTMImageCodec.from_pretrained(folder, output_loading_info=True)
  assert not info['missing_keys'] and not info['unexpected_keys']
  video = np.random.default_rng(1).uniform(-1, 1, (2, 3, 8, 12, 3)).astype(np.float32)
  wanted = jax.jit(lambda codec, video: codec.encode(video))(ours, video)
  with torch.no_grad():
    posterior = theirs.encode(parity.channels_first(video)).latent_dist
    assert parity.drift(parity.channels_last(posterior.mode()), wanted.mean) < 1e-5
    assert parity.drift(parity.channels_last(posterior.logvar), wanted.logvar) < 1e-5
    pixels = ours.decode(wanted.mean, 3)
    got = theirs.decode(parity.channels_first(wanted.mean), 3).sample
    assert parity.drift(parity.channels_last(got), pixels) < 1e-5
    theirs.enable_slicing()
    sliced = theirs.decode(parity.channels_first(wanted.mean), 3).sample
  assert theirs.stride == (1, 2, 2) and parity.drift(sliced, got) < 1e-5


def test_its_folder_is_that_of_diffusers_and_comes_back(ours, folder):
  _, info = diffusers.AutoencoderKL.from_pretrained(folder, output_loading_info=True)
  assert not info['missing_keys'] and not info['unexpected_keys']
  back = sd_vae.load(str(folder))
  assert back.config == CONFIG
  jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(back), jax.tree.leaves(ours))


def test_norms_of_several_numbers_of_groups_are_refused():
  with pytest.raises(InputError, match=r'norms of \[4, 8\] groups'):
    sd_vae.config_to_diffusers(SDVAEConfig(base_channels=16, multipliers=(1, 2)))
