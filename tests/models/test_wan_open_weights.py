"""From open weights of Wan, in folders written by diffusers and transformers, to a video.

Sizes are tiny; everything else is as users have it: a transformer in shards, an autoencoder of
Wan 2.1 and a umT5, each in its own folder.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.helpers import cli, small_wan, small_wan_vae, tiny
from tests.helpers.sentences import last_sentence
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import Context, read_encoding
from ttm_jax.data.latents import Latents
from ttm_jax.inference.pipeline import STAGE2, Stage
from ttm_jax.inference.pretrained_texts import load_encoders
from ttm_jax.metrics.evaluation import request_of
from ttm_jax.models.wan import convert
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.report.results import read_metrics
from ttm_jax.training.sources import read_parameters

FRAMES, LENGTH = 5, 240
SIZES = dataclasses.replace(small_wan.PLAIN, layers=2)
UMT5_WIDTH = 16


@pytest.fixture(scope='module')
def folders(tmp_path_factory, tiny_model):
  """A transformer and an autoencoder in one folder, and a umT5."""
  root = tmp_path_factory.mktemp('weights')
  model = small_wan.original(SIZES, text_dim=UMT5_WIDTH)
  model.save_pretrained(root / 'wan' / 'transformer', max_shard_size='30KB')
  codec = small_wan_vae.drawn(small_wan_vae.CONFIGS['wan21_vae'])
  small_wan_vae.write(root / 'wan' / 'vae', codec)
  return root / 'wan', tiny_model('t5', multilingual=True)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  path = tmp_path_factory.mktemp('scenes') / 'clips'
  made = cli.run(*tiny.scenes_command(path), f'--frames={FRAMES}', '--train=4', '--validation=2')
  assert made.code == 0, made.err
  return path


@pytest.fixture(scope='module')
def latents(folders, clips, tmp_path_factory):
  path, (wan, umt5) = tmp_path_factory.mktemp('latents') / 'wan', folders
  made = cli.run(
    'data_tools.encode',
    f'--clips={clips}',
    f'--out={path}',
    '--preset=wan',
    f'--codec=wan21_vae:{wan}',
    f'--text=umt5={umt5}:{LENGTH}:8',
    '--max_objects=3',
  )
  assert made.code == 0, made.err
  return path


def command(name, workdir, latents, source, **changes):
  sizes = {'width': 24, 'layers': 2, 'heads': 2, 'ffn': 40, 'channels': 3}
  changes = {f'model__{key}': value for key, value in sizes.items()} | changes
  return tiny.train_command(
    name, workdir, latents, init_from=f'pretrained:{source}', train__steps=2, **changes
  )


@pytest.fixture(scope='module')
def stage2(latents, folders, tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'stage2'
  ended = cli.run(*command('stage2_wan', path, latents, folders[0]))
  assert ended.code == 0, ended.err
  return path


def test_the_dataset(latents):
  context, record = Context.load(latents), Latents(latents, 'train')[0]
  assert context.latent_shape == (2, 4, 4, 3)  # Frame 0, then frames 1 to 4.
  caption, length = record['text.umt5.caption'], int(record['text.umt5.caption_length'])
  assert caption.shape == (LENGTH, UMT5_WIDTH) and 1 < length < LENGTH
  assert np.abs(caption[:length]).max() > 0 and not caption[length:].any()


def test_training_starts_from_the_folder(stage2, folders):
  losses = [m['train/loss'] for m in read_metrics(stage2) if 'train/loss' in m]
  assert len(losses) == 2 and np.isfinite(losses).all()
  wanted = jax.tree.map(np.asarray, convert.open_weights(str(folders[0]), SIZES))
  got = read_parameters(stage2)
  layers = jax.tree.map(
    lambda *x: np.concatenate(x),
    {k: v for k, v in got['masked_blocks'].items() if not k.startswith('masked')},
    got['blocks'],
  )
  for path, value in jax.tree.leaves_with_path(wanted):
    tree = {'blocks': layers} if path[0].key == 'blocks' else got
    found = functools.reduce(lambda tree, key: tree[key.key], path, tree)
    # The first step of the warm-up has learning rate 0, the second 1e-5.
    np.testing.assert_allclose(found, value, atol=1e-4, err_msg=jax.tree_util.keystr(path))
  assert not got['embed_visual']['kernel'][:, :1].max() > 1e-4


def test_a_video_from_them(stage2, clips):
  encoders = load_encoders([read_encoding(stage2)], ModelSource(''))
  stage = Stage(stage2, STAGE2, encoders, steps=2)
  clip = Clips(clips, 'validation')[0]
  first, again, other = (
    stage.generate([request_of(clip)], seed=seed, ids=clip.ids[None]) for seed in (0, 0, 1)
  )
  assert first.shape == (1, *clip.video.shape) and first.dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  assert np.abs(first.astype(int) - other).mean() > 1


def test_other_weights_are_refused(latents, folders, tmp_path):
  ended = cli.run(*command('stage2_wan', tmp_path / 'run', latents, folders[0], model__layers=3))
  assert ended.code == 2
  assert 'layers is 2 there, 3 is needed (--config.model.layers)' in last_sentence(ended)
  # The network of Wan 2.2 has other channels than the autoencoder of Wan 2.1.
  ended = cli.run(*command('stage2_wan', tmp_path / 'run', latents, folders[0], model__channels=48))
  assert ended.code == 2
  assert 'the codec of the dataset has 3 channels, the network 48: set' in last_sentence(ended)
  other = tmp_path / 'wan'
  small_wan.original(SIZES, text_dim=UMT5_WIDTH + 1).save_pretrained(other)
  ended = cli.run(*command('stage2_wan', tmp_path / 'run', latents, other))
  assert ended.code == 2
  assert f'{other} reads other texts: parameter mlp.up.kernel is' in last_sentence(ended)
  assert not (tmp_path / 'run').exists()
