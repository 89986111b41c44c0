"""Stable Diffusion 1.5 with AnimateDiff v3, as diffusers saves them, and our U-Net.

Open weights come as two models: `UNet2DConditionModel` (the `unet` folder of
stable-diffusion-v1-5/stable-diffusion-v1-5) and `MotionAdapter`
(guoyww/animatediff-motion-adapter-v1-5-3); or as one, `UNetMotionModel`.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from ttm_jax.errors import InputError
from ttm_jax.models.motion import positions
from ttm_jax.models.unet import UNet, UNetConfig
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import Weights, expect, locate, read

# Our paths to the names of diffusers: each pattern is replaced where it occurs, in this order.
NAMES = (
  (r'^down\.(\d+)\.resample', r'down_blocks.\1.downsamplers.0.conv'),
  (r'^up\.(\d+)\.resample', r'up_blocks.\1.upsamplers.0.conv'),
  (r'^(down|up)\.(\d+)', r'\1_blocks.\2'),
  (r'^middle', 'mid_block'),
  (r'^time\.hidden', 'time_embedding.linear_1'),
  (r'^time\.out', 'time_embedding.linear_2'),
  (r'^norm', 'conv_norm_out'),
  (r'units\.(\d+)\.resnet', r'resnets.\1'),
  (r'units\.(\d+)\.spatial', r'attentions.\1'),
  (r'units\.(\d+)\.motion', r'motion_modules.\1'),
  (r'(motion_modules\.\d+)\.(norm\d|attention\d|ffn)', r'\1.transformer_blocks.0.\2'),
  (r'\.block\.', '.transformer_blocks.0.'),
  (r'\.time\.', '.time_emb_proj.'),
  (r'\.shortcut', '.conv_shortcut'),
  (r'attention(\d)\.query', r'attn\1.to_q'),
  (r'attention(\d)\.key', r'attn\1.to_k'),
  (r'attention(\d)\.value', r'attn\1.to_v'),
  (r'attention(\d)\.out', r'attn\1.to_out.0'),
  (r'ffn\.up', 'ff.net.0.proj'),
  (r'ffn\.down', 'ff.net.2'),
  (r'\.(kernel|scale)$', '.weight'),
)

# Linear maps of ours that are 1 x 1 convolutions there.
POINTWISE = re.compile(r'shortcut\.kernel|spatial\.proj_(in|out)\.kernel')

MOTION, POSITIONS = 'motion_modules', 'pos_embed.pe'

MODELS = ('UNet2DConditionModel', 'UNetMotionModel')


@functools.cache
def table(config: UNetConfig) -> tuple[Entry, ...]:
  """The name table of a U-Net; its masked layers and visual condition are no part of it."""
  plain = dataclasses.replace(config, masked_blocks=0, visual_channels=0)
  model = nnx.eval_shape(lambda: UNet(plain, {}, rngs=nnx.Rngs(0)))
  return tuple(entries(nnx.to_pure_dict(nnx.state(model, nnx.Param))))


def entries(params: Mapping[str, Any]) -> list[Entry]:
  """The entries of all parameters of a U-Net: a nested dict of them, or of their shapes."""
  made = []
  for path, leaf in jax.tree.leaves_with_path(params):
    keys = tuple(key.key for key in path)
    ours = dotted(keys)
    if not ours.endswith('kernel'):
      layout = 'same'
    elif len(leaf.shape) == 4:
      layout = 'conv'
    else:
      layout = 'pointwise' if POINTWISE.search(ours) else 'linear'
    made.append(Entry(keys, (their_name(ours),), leaf.shape, layout))
  return made


def dotted(keys: Sequence[str]) -> str:
  """A path as PyTorch would write it: dots part the keys, so that there are none inside."""
  return '.'.join(key.replace('.', '_') for key in keys)


def their_name(ours: str) -> str:
  """The name in diffusers of a parameter by our path, parted by dots."""
  for pattern, name in NAMES:
    ours = re.sub(pattern, name, ours)
  return ours


def load(source: str, config: UNetConfig) -> dict[str, Any]:
  """The parameters of open weights: a nested dict of float32 arrays.

  Args:
    source: folders or hub ids, separated by a comma: the U-Net, and its motion modules where they
      are a model of their own. Without any, those stay as they begin, and frames unconnected.
    config: of the network that they are for; its masked layers and visual condition do not matter.

  Raises:
    InputError: where a folder, file, architecture or tensor is not what is needed.
  """
  first, *others = [part.strip() for part in source.split(',')]
  if len(others) > 1:
    raise InputError(f'{source}: give the U-Net and, after a comma, the motion adapter')
  weights = read(locate(first, 'unet'))
  kind = weights.config.get('_class_name')
  if kind not in MODELS:
    raise InputError(f'{weights.folder} holds a {kind}, one of {list(MODELS)} is needed')
  _check_spatial(weights, config)
  every = table(config)
  motion = [e for e in every if MOTION in e.theirs[0]]
  spatial = [e for e in every if MOTION not in e.theirs[0]]
  if kind == 'UNetMotionModel':
    if others:
      raise InputError(f'{weights.folder} has motion modules already: leave {others[0]} away')
    _check_motion(weights, config)
    return import_parameters(every, weights, _positions(weights, config))
  params = import_parameters(spatial, weights)
  if not others:
    return params
  adapter = read(locate(others[0]))
  if (kind := adapter.config.get('_class_name')) != 'MotionAdapter':
    raise InputError(f'{adapter.folder} holds a {kind}, a MotionAdapter is needed')
  _check_motion(adapter, config)
  modules = import_parameters(motion, adapter, _positions(adapter, config))
  return _merged(params, modules)


def _check_spatial(weights: Weights, config: UNetConfig) -> None:
  if weights.config.get('in_channels') == 9:
    raise InputError(
      f'{weights.folder} holds an inpainting U-Net (9 input channels): take the text-to-image one,'
      f' with {config.channels}'
    )
  heads = 'num_attention_heads' if weights.config.get('num_attention_heads') else None
  expect(
    weights,
    {
      'in_channels': config.channels,
      'out_channels': config.channels,
      'block_out_channels': config.widths,
      'layers_per_block': config.units,
      'norm_num_groups': config.groups,
      'cross_attention_dim': config.text_width,
      # Where the number of heads is not given, it stands under this name, by an old mistake.
      heads or 'attention_head_dim': config.heads,
      'use_linear_projection': False,
      'transformer_layers_per_block': 1,
    },
  )


def _check_motion(weights: Weights, config: UNetConfig) -> None:
  if weights.config.get('use_motion_mid_block', True):
    raise InputError(
      f'{weights.folder} has a motion module in the middle, as AnimateDiff v2: take v3'
      ' (guoyww/animatediff-motion-adapter-v1-5-3) or v1, which have none'
    )
  if weights.config.get('conv_in_channels'):
    raise InputError(
      f'{weights.folder} brings an input convolution of its own, as PIA: take AnimateDiff v3'
      ' (guoyww/animatediff-motion-adapter-v1-5-3)'
    )
  expect(
    weights,
    {
      'block_out_channels': config.widths,
      'motion_layers_per_block': config.units,
      'motion_norm_num_groups': config.groups,
      'motion_transformer_layers_per_block': 1,
      'motion_num_attention_heads': config.heads,
    },
  )


def _positions(weights: Weights, config: UNetConfig) -> list[str]:
  """The names of the position tables, which are no parameters here, once they were found as ours.

  Raises:
    InputError: where one is shorter than the longest clip, or not the sinusoid.
  """
  names = [name for name in weights.tensors if MOTION in name and name.endswith(POSITIONS)]
  for name in names:
    values = weights.tensors[name]
    if values.ndim != 3 or values.shape[1] < config.motion_length:
      raise InputError(
        f'{weights.folder}: {name} is {list(values.shape)}: it tells'
        f' {values.shape[1] if values.ndim > 1 else 0} frames apart; set'
        ' --config.model.motion_length to at most that'
      )
    if not np.allclose(values[0], positions(*values.shape[1:]), atol=1e-3):
      raise InputError(f'{weights.folder}: {name} is not the sinusoid that AnimateDiff has there')
  return names


def _merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
  """Two nested dicts as one."""
  both = {**a, **b}
  for name in a.keys() & b.keys():
    both[name] = _merged(a[name], b[name])
  return both
