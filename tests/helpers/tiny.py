"""Shrink the shipped configurations, so that they train in seconds on a tiny dataset.

Only sizes and intervals change. Task, process, optimizer, precision and rematerialization stay as
shipped, so that the tests cover what users train.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

ROOT = Path(__file__).parents[2]

# The runnable configurations; the other files of configs/ are shared parts.
SHIPPED = (
  'adapt_unet',
  'clips_stage1',
  'clips_stage2',
  'codec_tae',
  'demo_distill_guidance_stage1',
  'demo_distill_guidance_stage2',
  'demo_distill_stage1',
  'demo_distill_stage2',
  'demo_distill_unet_stage1',
  'demo_distill_unet_stage2',
  'demo_stage1',
  'demo_stage2',
  'demo_ti2v',
  'demo_unet_stage1',
  'demo_unet_stage2',
  'demo_unet_ti2v',
  'demo_wan_pretrain',
  'demo_wan_stage1',
  'demo_wan_stage2',
  'distill_guidance_stage2_dit',
  'distill_guidance_stage2_unet',
  'distill_guidance_stage2_wan',
  'distill_stage1_dit',
  'distill_stage2_dit',
  'distill_stage2_unet',
  'distill_stage2_wan',
  'films_stage1',
  'films_stage2',
  'pretrain_dit',
  'scenes_codec',
  'scenes_stage1',
  'scenes_stage2',
  'showcase_large_stage1',
  'showcase_large_stage2',
  'showcase_stage1',
  'showcase_stage2',
  'stage1_dit',
  'stage1_unet',
  'stage1_wan',
  'stage2_dit',
  'stage2_unet',
  'stage2_wan',
  'ti2v_dit',
  'ti2v_unet',
  'ti2v_wan',
)

FRAMES, SIDE, FPS = 4, 16, 8
CHANNELS, LATENTS = 6, (2, 4, 4)  # Channels and (T', H', W') of CODEC.
WORDS = {'words_dim': 16, 'words_length': 16, 'words_prompt_length': 8, 'max_objects': 3}
CODEC = f'linear:2x4x4x{CHANNELS}'
UNET_CODEC = f'linear:2x2x2x{CHANNELS}'  # The full-size U-Net downsamples latents three times.
CODECS = {'dit': CODEC, 'unet': UNET_CODEC, 'wan': CODEC}
TRAIN_CLIPS, VALIDATION_CLIPS = 12, 4

_DIT = {
  'width': 32,
  'layers': 2,
  'heads': 2,
  'ffn': 48,
  'channels': CHANNELS,
  'grid': LATENTS,
  'patch': (2, 2),
}
_UNET = {
  'widths': (8, 16),
  'units': 1,
  'heads': 2,
  'groups': 4,
  'text_width': 16,
  'channels': CHANNELS,
}
_WAN = {'width': 32, 'layers': 2, 'heads': 2, 'ffn': 48, 'channels': CHANNELS}
_SIZES = {'dit': _DIT, 'unet': _UNET, 'wan': _WAN}
_TAE = {
  'channels': 4,
  'base_channels': 8,
  'multipliers': (1, 2),
  'res_blocks': 1,
  'temporal_downsamples': 1,
  'patch': 1,
  'tile': (4, 16, 16),
}


def shipped(name: str) -> ConfigDict:
  """Return a configuration as shipped; NAME:SIZE is one of its sizes."""
  module, *size = name.split(':')
  return importlib.import_module(f'ttm_jax.configs.{module}').get_config(*size)


def shrunk(name: str, data: Path | str = '', **changes: Any) -> ConfigDict:
  """Return a shipped configuration at the size of the tests.

  Args:
    name: name of the configuration.
    data: path of the dataset.
    **changes: further values by dotted key, with `__` instead of the dot: train__steps=3.
  """
  config = shipped(name)
  model = config.model
  if config.task == 'codec':
    model.update(_TAE)
    config.data.frames = FRAMES
  else:
    masked = min(model.masked_blocks, 1)
    model.update(_SIZES[config.preset] | {'masked_blocks': masked})
    config.process.steps = 4
    if config.init_from.startswith('pretrained:'):
      config.init_from = ''
  config.data.update({'path': str(data), 'batch_size': 4, 'threads': 1})
  config.optimizer.warmup = 2
  config.train.update(
    {
      'steps': 4,
      'accumulate': 1,
      'log_every': 1,
      'evaluate_every': 0,
      'evaluate_batches': 1,
      'sample_every': 0,
      'checkpoint_every': 1_000,
    }
  )
  config.sample.count = 2
  config.mesh.update({'data': -1, 'fsdp': 1})
  config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
  return config


def flags(config: ConfigDict, base: ConfigDict, prefix: str = 'config') -> list[str]:
  """Return the command line flags that change `base` into `config`."""
  found = []
  for key, value in config.items():
    if isinstance(value, Mapping | ConfigDict):
      found += flags(value, base[key], f'{prefix}.{key}')
    elif value != base[key]:
      found.append(f'--{prefix}.{key}={value}')
  return found


def scenes_command(path: Path) -> list[str]:
  """Return the arguments of `python -m` that generate the clips dataset."""
  return [
    'data_tools.make_scenes',
    f'--out={path}',
    f'--train={TRAIN_CLIPS}',
    f'--validation={VALIDATION_CLIPS}',
    f'--size={SIDE}',
    f'--frames={FRAMES}',
    f'--fps={FPS}',
    f'--max_objects={WORDS["max_objects"]}',
  ]


def encode_command(clips: Path, path: Path, *options: str) -> list[str]:
  """Return the arguments of `python -m` that encode the clips dataset into a latents dataset."""
  words = [f'--{name}={value}' for name, value in WORDS.items()]
  return ['data_tools.encode', f'--clips={clips}', f'--out={path}', *words, *options]


def train_command(name: str, workdir: Path, data: Path | str, **changes: Any) -> list[str]:
  """Return the arguments of `python -m` that train a shrunk configuration.

  Args:
    name: name of the configuration.
    workdir: folder of the run.
    data: path of the dataset.
    **changes: see `shrunk`.
  """
  config = shrunk(name, data, **changes)
  options = flags(config, shipped(name))
  path = ROOT / 'configs' / f'{name}.py'
  return ['ttm_jax.train', f'--config={path}', f'--workdir={workdir}', *options]
