"""Import of Stable Diffusion 1.5 with AnimateDiff v3, as saved by diffusers, into the U-Net.

Open weights are published as two models: `UNet2DConditionModel` (the `unet` folder of
stable-diffusion-v1-5/stable-diffusion-v1-5) and `MotionAdapter`
(guoyww/animatediff-motion-adapter-v1-5-3). They may also be one model, `UNetMotionModel`.
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
from ttm_jax.models.unet.model import UNet, UNetConfig
from ttm_jax.models.unet.motion import positions
from ttm_jax.pretrained.fields import NONE, OFF, Free, Only, Table, check
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import Weights, locate, read

# Regular expressions from JAX parameter paths to names in diffusers, applied in this order.
NAMES = (
  (r'^down\.(\d+)\.resample', r'down_blocks.\1.downsamplers.0.conv'),
  (r'^up\.(\d+)\.resample', r'up_blocks.\1.upsamplers.0.conv'),
  (r'^(down|up)\.(\d+)', r'\1_blocks.\2'),
  (r'^middle', 'mid_block'),
  (r'^time\.scales\.', 'scales.'),
  (r'^time\.hidden', 'time_embedding.linear_1'),
  (r'^time\.out', 'time_embedding.linear_2'),
  (r'^norm', 'conv_norm_out'),
  (r'units\.(\d+)\.resnet', r'resnets.\1'),
  (r'units\.(\d+)\.spatial', r'attentions.\1'),
  (r'units\.(\d+)\.motion', r'motion_modules.\1'),
  (r'(motion_modules\.\d+)\.(norm\d|attn\d|ffn)', r'\1.transformer_blocks.0.\2'),
  (r'\.block\.', '.transformer_blocks.0.'),
  (r'\.time\.', '.time_emb_proj.'),
  (r'\.shortcut', '.conv_shortcut'),
  (r'transformer_blocks\.0\.attn\.', 'transformer_blocks.0.attn1.'),
  (r'transformer_blocks\.0\.cross_attn\.', 'transformer_blocks.0.attn2.'),
  (r'attn(\d)\.query', r'attn\1.to_q'),
  (r'attn(\d)\.key', r'attn\1.to_k'),
  (r'attn(\d)\.value', r'attn\1.to_v'),
  (r'attn(\d)\.out', r'attn\1.to_out.0'),
  (r'ffn\.up', 'ff.net.0.proj'),
  (r'ffn\.down', 'ff.net.2'),
  (r'\.(kernel|scale)$', '.weight'),
)

# Linear layers in JAX that are 1 x 1 convolutions in diffusers.
POINTWISE = re.compile(r'shortcut\.kernel|spatial\.proj_(in|out)\.kernel')

MOTION, POSITIONS = 'motion_modules', 'pos_embed.pe'

MODELS = ('UNet2DConditionModel', 'UNetMotionModel')


@functools.cache
def table(config: UNetConfig) -> tuple[Entry, ...]:
  """Return the name table of a U-Net, without its masked layers and its visual condition."""
  plain = dataclasses.replace(config, masked_blocks=0, visual_channels=0)
  model = nnx.eval_shape(lambda: UNet(plain, {}, rngs=nnx.Rngs(0)))
  return tuple(entries(nnx.to_pure_dict(nnx.state(model, nnx.Param))))


def entries(params: Mapping[str, Any]) -> list[Entry]:
  """Return the entries of all parameters of a U-Net.

  Args:
    params: nested dict of the parameters, or of their shapes.
  """
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
  """Return a path joined by dots, as in PyTorch; dots inside keys become underscores."""
  return '.'.join(key.replace('.', '_') for key in keys)


def their_name(ours: str) -> str:
  """Return the name in diffusers of a parameter, given its JAX path joined by dots."""
  for pattern, name in NAMES:
    ours = re.sub(pattern, name, ours)
  return ours


def load(source: str, config: UNetConfig) -> dict[str, Any]:
  """Return the parameters of open weights: a nested dict of `StoredParameter`.

  Args:
    source: folders or hub ids, separated by a comma: the U-Net, then its motion modules if they are
      a separate model. Without motion modules, these keep their initial parameters, and frames are
      independent.
    config: sizes of the target network; its masked layers and visual condition are ignored.

  Raises:
    InputError: if a folder, file, architecture or tensor does not match.
  """
  first, *others = [part.strip() for part in source.split(',')]
  if len(others) > 1:
    raise InputError(f'{source}: give the U-Net and, after a comma, the motion adapter')
  weights = read(locate(first, 'unet'))
  kind = weights.config.get('_class_name')
  if kind not in MODELS:
    raise InputError(f'{weights.folder} holds a {kind}, one of {list(MODELS)} is needed')
  if weights.config.get('in_channels') == 9:
    raise InputError(
      f'{weights.folder} holds an inpainting U-Net (9 input channels): take the text-to-image one,'
      f' with {config.channels}'
    )
  every = table(config)
  motion = [e for e in every if MOTION in e.theirs[0]]
  spatial = [e for e in every if MOTION not in e.theirs[0]]
  if kind == 'UNetMotionModel':
    if others:
      raise InputError(f'{weights.folder} has motion modules already: leave {others[0]} away')
    _check_motion(weights)
    check(weights.folder, weights.config, motion_fields(config))
    return import_parameters(every, weights, _positions(weights, config))
  check(weights.folder, weights.config, image_fields(config, weights.config))
  params = import_parameters(spatial, weights)
  if not others:
    return params
  adapter = read(locate(others[0]))
  if (kind := adapter.config.get('_class_name')) != 'MotionAdapter':
    raise InputError(f'{adapter.folder} holds a {kind}, a MotionAdapter is needed')
  _check_motion(adapter)
  check(adapter.folder, adapter.config, adapter_fields(config))
  modules = import_parameters(motion, adapter, _positions(adapter, config))
  return _merged(params, modules)


def _check_motion(weights: Weights) -> None:
  """Raise InputError if the motion modules belong to an unsupported variant of AnimateDiff."""
  if weights.config.get('use_motion_mid_block', True):
    raise InputError(
      f'{weights.folder} cannot be used (use_motion_mid_block): it has a motion module in the'
      ' middle, as AnimateDiff v2: take v3 (guoyww/animatediff-motion-adapter-v1-5-3) or v1, which'
      ' have none'
    )
  if weights.config.get('conv_in_channels'):
    raise InputError(
      f'{weights.folder} cannot be used (conv_in_channels): it brings an input convolution of its'
      ' own, as PIA: take AnimateDiff v3 (guoyww/animatediff-motion-adapter-v1-5-3)'
    )


def _shared_fields(config: UNetConfig) -> Table:
  """Return the rules for fields that a U-Net has with and without motion modules."""
  return {
    'sample_size': Free('the size is that of the latents'),
    'in_channels': Only(config.channels),
    'out_channels': Only(config.channels),
    'block_out_channels': Only(config.widths),
    'layers_per_block': Only(config.units),
    'downsample_padding': Only(1, 1),
    'mid_block_scale_factor': Only(1, 1),
    'act_fn': Only('silu', 'silu', also=('swish',)),
    'norm_num_groups': Only(config.groups, 32),
    'norm_eps': Only(1e-5, 1e-5),
    'cross_attention_dim': Only(config.text_width),
    'transformer_layers_per_block': Only(1, 1),
    'reverse_transformer_layers_per_block': Only(None, None, also=(1,)),
    'use_linear_projection': OFF,
    'encoder_hid_dim': NONE,
    'encoder_hid_dim_type': NONE,
    'addition_embed_type': NONE,
    'addition_time_embed_dim': Free('read only with addition_embed_type'),
    'projection_class_embeddings_input_dim': Free(
      'read only with class_embed_type or addition_embed_type'
    ),
    'time_cond_proj_dim': NONE,
  }


def image_fields(config: UNetConfig, found: Mapping[str, Any]) -> Table:
  """Return the rules for the fields of `UNet2DConditionModel`.

  Args:
    config: sizes of the target network.
    found: the content of `config.json`, which determines the field that gives the number of heads.
  """
  levels = len(config.widths) - 1
  # If num_attention_heads is absent, attention_head_dim is the number of heads, by a historical
  # naming error in diffusers.
  named = bool(found.get('num_attention_heads'))
  return {
    **_shared_fields(config),
    'center_input_sample': OFF,
    'flip_sin_to_cos': Only(True, True),
    'freq_shift': Only(0, 0),
    'down_block_types': Only(('CrossAttnDownBlock2D',) * levels + ('DownBlock2D',)),
    'mid_block_type': Only('UNetMidBlock2DCrossAttn', 'UNetMidBlock2DCrossAttn'),
    'up_block_types': Only(('UpBlock2D',) + ('CrossAttnUpBlock2D',) * levels),
    'only_cross_attention': OFF,
    'dropout': Free('acts in training alone, where networks here have none'),
    'attention_head_dim': (
      Free('num_attention_heads counts instead') if named else Only(config.heads, 8)
    ),
    'num_attention_heads': Only(config.heads, None, also=(None,)),
    'dual_cross_attention': OFF,
    'class_embed_type': NONE,
    'num_class_embeds': NONE,
    'upcast_attention': Free('softmax is always computed in float32 here'),
    'resnet_time_scale_shift': Only('default', 'default'),
    'resnet_skip_time_act': OFF,
    'resnet_out_scale_factor': Only(1, 1),
    'time_embedding_type': Only('positional', 'positional'),
    'time_embedding_dim': Only(None, None, also=(4 * config.widths[0],)),
    'time_embedding_act_fn': NONE,
    'timestep_post_act': NONE,
    'conv_in_kernel': Only(3, 3),
    'conv_out_kernel': Only(3, 3),
    'attention_type': Only('default', 'default'),
    'class_embeddings_concat': OFF,
    'mid_block_only_cross_attention': Only(None, None, also=(False,)),
    'cross_attention_norm': NONE,
    'addition_embed_type_num_heads': Free('read only with addition_embed_type'),
  }


def motion_fields(config: UNetConfig) -> Table:
  """Return the rules for the fields of `UNetMotionModel`."""
  levels = len(config.widths) - 1
  return {
    **_shared_fields(config),
    'down_block_types': Only(('CrossAttnDownBlockMotion',) * levels + ('DownBlockMotion',)),
    'up_block_types': Only(('UpBlockMotion',) + ('CrossAttnUpBlockMotion',) * levels),
    'num_attention_heads': Only(config.heads, 8),
    'temporal_transformer_layers_per_block': Only(1, 1),
    'reverse_temporal_transformer_layers_per_block': Only(None, None, also=(1,)),
    'transformer_layers_per_mid_block': Only(None, None, also=(1,)),
    'temporal_transformer_layers_per_mid_block': Free('there is no motion module in the middle'),
    'motion_max_seq_length': Free('the tables of positions among the tensors are looked at'),
    'motion_num_attention_heads': Only(config.heads, 8),
    'reverse_motion_num_attention_heads': Only(config.heads, None, also=(None,)),
    'use_motion_mid_block': Only(False, True),
    'mid_block_layers': Only(1, 1),
  }


def adapter_fields(config: UNetConfig) -> Table:
  """Return the rules for the fields of `MotionAdapter`."""
  return {
    'block_out_channels': Only(config.widths),
    'motion_layers_per_block': Only(config.units),
    'motion_transformer_layers_per_block': Only(1, 1),
    'motion_mid_block_layers_per_block': Free('there is no motion module in the middle'),
    'motion_transformer_layers_per_mid_block': Free('there is no motion module in the middle'),
    'motion_num_attention_heads': Only(config.heads, 8),
    'motion_norm_num_groups': Only(config.groups, 32),
    'motion_max_seq_length': Free('the tables of positions among the tensors are looked at'),
    'use_motion_mid_block': Only(False, True),
    'conv_in_channels': NONE,
  }


def _positions(weights: Weights, config: UNetConfig) -> list[str]:
  """Check the position tables of the motion modules and return their names.

  The tables are not parameters of the JAX U-Net, which computes the same sinusoids.

  Raises:
    InputError: if a table is shorter than `motion_length`, or is not the sinusoid.
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
    if not np.allclose(np.asarray(values)[0], positions(*values.shape[1:]), atol=1e-3):
      raise InputError(f'{weights.folder}: {name} is not the sinusoid that AnimateDiff has there')
  return names


def _merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
  """Return two nested dicts merged into one."""
  both = {**a, **b}
  for name in a.keys() & b.keys():
    both[name] = _merged(a[name], b[name])
  return both
