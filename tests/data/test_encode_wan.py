"""Encode clips with an autoencoder of Wan, which takes 4 n + 1 frames."""

import json

import numpy as np
import pytest

from tests.helpers import cli, small_wan_vae, tiny
from tests.helpers.sentences import last_sentence
from ttm_jax.codecs.base import to_float
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import Context
from ttm_jax.data.latents import Latents
from ttm_jax.errors import InputError

FRAMES = 5


@pytest.fixture(scope='module')
def codec():
  return small_wan_vae.drawn(small_wan_vae.CONFIGS['wan21_vae'])


@pytest.fixture(scope='module')
def weights(codec, tmp_path_factory):
  """A pipeline of diffusers with the autoencoder in `vae`."""
  path = tmp_path_factory.mktemp('weights')
  small_wan_vae.write(path / 'vae', codec)
  return path


def encode(clips, out, codec):
  return cli.run('data_tools.encode', f'--clips={clips}', f'--out={out}', f'--codec={codec}')


def test_a_dataset(codec, weights, tmp_path):
  clips, out = tmp_path / 'clips', tmp_path / 'latents'
  shape = (f'--frames={FRAMES}', '--train=2', '--validation=1')
  made = cli.run(*tiny.scenes_command(clips), *shape)
  assert made.code == 0, made.err
  made = encode(clips, out, f'wan21_vae:{weights}')
  assert made.code == 0, made.err
  context, found = Context.load(out), Latents(out, 'validation')[0]
  assert context.latent_shape == (2, 4, 4, 3)
  clip = Clips(clips, 'validation')[0]
  wanted = small_wan_vae.encode(codec, to_float(clip.video)[None])
  np.testing.assert_allclose(found['video'], wanted.mean[0], atol=2e-3)
  np.testing.assert_allclose(found['video_logvar'], wanted.logvar[0], atol=2e-3)
  first = small_wan_vae.encode(codec, to_float(clip.video)[None, :1]).mean[0]
  np.testing.assert_allclose(found['first_frame'], first, atol=2e-3)
  # The first latent frame is the first frame, so its tokens are those of frame 0 alone.
  assert found['token_masks.0.region'].shape == (2, 2, 2)
  path = out / 'context' / 'context.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'frames': FRAMES + 1}))
  with pytest.raises(InputError, match=r'is damaged \(6 frames do not fit the codec'):
    Context.load(out)


def test_what_does_not_fit(clips, weights, tmp_path):
  out = tmp_path / 'latents'
  said = last_sentence(encode(clips, out, f'wan21_vae:{weights}'))
  assert said == '4 frames do not fit the codec, which takes 4 n + 1 frames: use 1 or 5'
  said = last_sentence(encode(clips, out, f'wan22_vae:{weights}'))
  assert said == (
    f'{weights}/vae holds the autoencoder of Wan 2.1, that of Wan 2.2 is needed: write'
    f' --codec wan21_vae:{weights}/vae, or name other weights'
  )
  said = last_sentence(encode(clips, out, f'wan21_vae:{weights}/Wan2.1_VAE.pth'))
  assert 'is a pickled checkpoint, which can run code when it is opened' in said
  assert not out.exists()
