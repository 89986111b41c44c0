"""From open weights, in folders written by diffusers and transformers, to a generated video.

Sizes are tiny; everything else is as users have it: an image network with its motion adapter, an
autoencoder and a CLIP, each in its own folder.
"""

import functools

import jax
import numpy as np
import pytest

pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
pytest.importorskip('transformers', reason='transformers is not installed (extra dev)')

import diffusers
import torch
from PIL import Image

from tests.helpers import cli, tiny, tiny_models
from ttm_jax import trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import Context, read_encoding
from ttm_jax.data.latents import Latents
from ttm_jax.inference.pipeline import STAGE2, Stage
from ttm_jax.inference.pretrained_texts import load_encoders
from ttm_jax.metrics.evaluation import request_of
from ttm_jax.models.unet import open_weights
from ttm_jax.models.unet.model import UNetConfig
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.report.results import read_metrics
from ttm_jax.settings import from_config
from ttm_jax.training.runs import read_config
from ttm_jax.training.sources import read_parameters

WIDTHS, TEXT, GROUPS, HEADS = [8, 16], 12, 4, 2


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A pipeline with `unet` and `vae`, a motion adapter, and a CLIP."""
  root = tmp_path_factory.mktemp('weights')
  torch.manual_seed(0)
  diffusers.UNet2DConditionModel(
    block_out_channels=WIDTHS,
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    layers_per_block=1,
    norm_num_groups=GROUPS,
    attention_head_dim=HEADS,  # diffusers uses this as the number of heads.
    cross_attention_dim=TEXT,
  ).save_pretrained(root / 'sd' / 'unet')
  diffusers.AutoencoderKL(
    block_out_channels=[16, 16],
    down_block_types=['DownEncoderBlock2D'] * 2,
    up_block_types=['UpDecoderBlock2D'] * 2,
    norm_num_groups=4,
  ).save_pretrained(root / 'sd' / 'vae')
  diffusers.MotionAdapter(
    block_out_channels=WIDTHS,
    motion_layers_per_block=1,
    motion_norm_num_groups=GROUPS,
    motion_num_attention_heads=HEADS,
    use_motion_mid_block=False,
  ).save_pretrained(root / 'motion')
  tiny_models.clip_text(root / 'clip')
  return root


@pytest.fixture(scope='module')
def latents(folders, clips, tmp_path_factory):
  """The scenes as latents of that autoencoder, with texts embedded by that CLIP."""
  path = tmp_path_factory.mktemp('latents') / 'clip'
  made = cli.run(
    'data_tools.encode',
    f'--clips={clips}',
    f'--out={path}',
    '--preset=unet',
    f'--codec=sd_vae:{folders}/sd',
    f'--text=clip={folders}/clip:77:77',
    '--max_objects=3',
  )
  assert made.code == 0, made.err
  return path


@pytest.fixture(scope='module')
def train(latents, tmp_path_factory):
  """Train (configuration, initial weights) for two steps; return the run."""
  root = tmp_path_factory.mktemp('runs')

  def run(name, init_from):
    model = {'channels': 4, 'text_width': TEXT}
    changes = {f'model__{key}': value for key, value in model.items()}
    changes |= {'train__steps': 2, 'init_from': str(init_from)}
    ended = cli.run(*tiny.train_command(name, root / name, latents, **changes))
    assert ended.code == 0, ended.err
    losses = [m['train/loss'] for m in read_metrics(root / name) if 'train/loss' in m]
    assert len(losses) == 2 and np.isfinite(losses).all()
    return root / name

  return run


@pytest.fixture(scope='module')
def adapted(train, folders):
  return train('adapt_unet', f'pretrained:{folders}/sd,{folders}/motion')


def test_texts_are_all_of_clips_places(latents):
  context, record = Context.load(latents), Latents(latents, 'train')[0]
  assert {name: (e.dim, e.length) for name, e in context.encoding.encoders.items()} == {
    'clip': (TEXT, 77)
  }
  assert record['text.clip.caption'].shape == (77, TEXT)
  assert record['text.clip.prompts'].shape == (3, 77, TEXT)
  assert record['text.clip.caption_length'] == 77
  assert np.abs(record['text.clip.caption'][-1]).max() > 0  # Padding is read, too.
  assert context.latent_shape == (tiny.FRAMES, tiny.SIDE // 2, tiny.SIDE // 2, 4)


@pytest.mark.slow
def test_training_starts_from_the_folders(adapted, folders):
  config = from_config(UNetConfig, read_config(adapted).model, 'model')
  wanted = open_weights.load(f'{folders}/sd,{folders}/motion', config)
  got = read_parameters(adapted)
  for path, value in jax.tree.leaves_with_path(wanted):
    found = functools.reduce(lambda tree, key: tree[key.key], path, got)
    # The first step of the warm-up has learning rate 0, the second 1e-5.
    np.testing.assert_allclose(found, value, atol=1e-4, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope='module')
def stages(train, adapted):
  return train('stage1_unet', adapted), train('stage2_unet', adapted)


@pytest.mark.slow
def test_from_open_weights_to_a_video(stages, clips):
  encoders = load_encoders([read_encoding(stages[1])], ModelSource(''))
  stage = Stage(stages[1], STAGE2, encoders, steps=2)
  clip = Clips(clips, 'validation')[0]
  first, again, other = (
    stage.generate([request_of(clip)], seed=seed, ids=clip.ids[None]) for seed in (0, 0, 1)
  )
  assert first.shape == (1, *clip.video.shape) and first.dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  assert np.abs(first.astype(int) - other).mean() > 1


@pytest.mark.slow
def test_runs_that_read_clip_are_evaluated(stages, clips, tmp_path):
  ended = cli.run(
    'ttm_jax.evaluate',
    *(f'--stage{number}={run}' for number, run in enumerate(stages, 1)),
    f'--clips={clips}',
    '--count=1',
    '--steps=2',
    '--offline',
    f'--out={tmp_path}/report',
  )
  assert ended.code == 0, ended.err
  assert 'PSNR' in ended.out and (tmp_path / 'report' / 'report.html').is_file()


@pytest.mark.slow
def test_the_export_reads_clip_from_where_it_is_said_to_lie(stages, folders, clips, tmp_path):
  clip = Clips(clips, 'validation')[0]
  Image.fromarray(clip.video[0]).save(tmp_path / 'photo.png')
  trajectory.write_folder(tmp_path / 'masks', clip.ids[:1])
  ended = cli.run(
    'ttm_jax.export',
    *(f'--stage{number}={run}' for number, run in enumerate(stages, 1)),
    '--text=clip=owner/nowhere',
    f'--out={tmp_path}/folder',
  )
  assert ended.code == 0, ended.err
  command = [
    'ttm_jax.pytorch.generate',
    tmp_path / 'folder',
    f'--image={tmp_path}/photo.png',
    f'--segmentation={tmp_path}/masks/00000.png',
    f'--prompt={clip.caption}',
    f'--motion={clip.motion}',
    *(f'--object={i}: {text}' for i, text in enumerate(clip.prompts, 1)),
    '--steps=2',
    '--offline',
    f'--out={tmp_path}/out.mp4',
  ]
  ended = cli.run(*command)
  assert ended.code == 2 and "the text encoder 'clip' cannot be loaded" in ended.err
  ended = cli.run(*command, f'--text=clip={folders}/clip')
  assert ended.code == 0, ended.err
  assert (tmp_path / 'out.mp4').is_file()
