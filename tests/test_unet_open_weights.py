"""The way of open weights: folders as diffusers and transformers write them, to a generated video.

Sizes are tiny, everything else is as users have it: an image network with its motion adapter, an
autoencoder and a CLIP, each in its own folder.
"""

import numpy as np
import pytest

from tests import doors, tiny
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import Context
from ttm_jax.data.latents import Latents
from ttm_jax.evaluation import request_of
from ttm_jax.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.pretrained import unet
from ttm_jax.report.results import read_metrics
from ttm_jax.training.runs import read_config, read_parameters

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
pytest.importorskip('transformers', reason='transformers is not installed (extra dev)')

from data_tools.steps.text import TextSettings
from data_tools.steps.weights import Weights
from tests import tiny_models

WIDTHS, TEXT, GROUPS, HEADS = [8, 16], 12, 4, 2
SIZES = {'model__channels': 4, 'model__text_width': TEXT}


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
    attention_head_dim=HEADS,  # Which diffusers takes for the number of heads.
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
  """The scenes in the latents of that autoencoder, with the words of that CLIP."""
  path = tmp_path_factory.mktemp('latents') / 'clip'
  made = doors.run(
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
  """(configuration, what it starts from) -> the run of two steps, with samples at its end."""
  root = tmp_path_factory.mktemp('runs')

  def run(name, init_from):
    changes = {'train__steps': 2, 'train__sample_every': 2, 'sample__count': 1, **SIZES}
    if tiny.shipped(name).model.visual_channels:
      changes['model__visual_channels'] = tiny.shipped(name).model.visual_channels
    path = root / name
    ended = doors.run(*tiny.train_command(name, path, latents, init_from=str(init_from), **changes))
    assert ended.code == 0, ended.err
    assert (path / 'samples' / 'step_0000002.png').exists()
    return path

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


def test_training_starts_from_the_folders(adapted, folders):
  config = read_config(adapted)
  model = tiny.shrunk('adapt_unet', **SIZES).model
  assert config.model.to_dict() == model.to_dict()
  from ttm_jax.models.unet import UNetConfig
  from ttm_jax.settings import from_config

  wanted = unet.load(
    f'{folders}/sd,{folders}/motion', from_config(UNetConfig, config.model, 'model')
  )
  got = read_parameters(adapted)
  for part in ('conv_in', 'time', 'middle', 'down', 'up'):
    flat = dict(_leaves(got[part]))
    for path, value in _leaves(wanted[part]):
      # The first step of the warm-up has rate 0, the second one of 1e-5.
      np.testing.assert_allclose(flat[path], value, atol=1e-4, err_msg=path)


def _leaves(tree, path=''):
  if not isinstance(tree, dict):
    return [(path, np.asarray(tree))]
  return [leaf for key, inner in tree.items() for leaf in _leaves(inner, f'{path}.{key}')]


def test_from_open_weights_to_a_video(adapted, train, folders, clips):
  stages = {task: train(name, adapted) for task, name in
            ((STAGE1, 'stage1_unet'), (STAGE2, 'stage2_unet'))}
  for run in stages.values():
    losses = [m['train/loss'] for m in read_metrics(run) if 'train/loss' in m]
    assert len(losses) == 2 and np.isfinite(losses).all()
  settings = TextSettings.parse(f'clip={folders}/clip:77:77', Weights(''))
  encoders = {'clip': settings.build()[1]}
  pipeline = Pipeline(*(Stage(run, task, encoders, steps=2) for task, run in stages.items()))
  request = request_of(Clips(clips, 'validation')[0])
  ids = pipeline.trajectories([request], seed=0)
  video = pipeline.videos([request], ids, seed=0)
  assert video.shape == (1, tiny.FRAMES, tiny.SIDE, tiny.SIDE, 3) and video.std() > 1
