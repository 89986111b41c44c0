"""Small datasets, for tests that damage them."""

import pytest

from tests.helpers.hostile import SCENES
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data import clips
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.encode import TEXT_ENCODERS, EncodedClips, null_text
from ttm_jax.data.latents import write_latents
from ttm_jax.scenes import generator as scenes
from ttm_jax.text.encoders import TextEncoderSpec


@pytest.fixture
def dataset(tmp_path):
  """A clips dataset of two clips."""
  clips.write_clips(tmp_path / 'clips', {'train': scenes.Scenes(SCENES, 2)})
  return tmp_path / 'clips'


@pytest.fixture
def encoded(tmp_path):
  """A latents dataset of these clips, with its context."""
  some = scenes.Scenes(SCENES, 2)
  codec = LinearCodec.fit([clip.video for clip in some], (2, 4, 4), 6)
  encoding = Encoding(
    'dit', 4, 16, 16, 8.0, 'spread8', 3, {'words': TextEncoderSpec(8, 20, 7)}, grids=((2, 2),)
  )
  context = Context(encoding, codec, null_text(encoding, TEXT_ENCODERS))
  write_latents(tmp_path / 'latents', context, {'train': EncodedClips(some, context)})
  return tmp_path / 'latents'
