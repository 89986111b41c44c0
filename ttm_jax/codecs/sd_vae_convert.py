"""Convert the autoencoder of Stable Diffusion 1.5 to diffusers' `AutoencoderKL` and back."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.codecs.sd_vae import SDVAE, SDVAEConfig
from ttm_jax.errors import InputError
from ttm_jax.pretrained.fields import NONE, Free, Only, Read, Table, check, sizes
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import Weights, locate, read

# Replacements that turn our parameter paths into diffusers' names, applied in this order. `@` is
# a placeholder for q, k and v.
NAMES = (
  (r'middle\.block1', 'mid_block.resnets.0'),
  (r'middle\.block2', 'mid_block.resnets.1'),
  (r'middle\.spatial\.norm', 'mid_block.attentions.0.group_norm'),
  (r'middle\.spatial\.out', 'mid_block.attentions.0.to_out.0'),
  (r'middle\.spatial\.qkv', 'mid_block.attentions.0.to_@'),
  (r'coder\.norm', 'coder.conv_norm_out'),
  (r'shortcut', 'conv_shortcut'),
  (r'quant\.', 'quant_conv.'),
  (r'\.(kernel|scale)$', '.weight'),
)

POINTWISE = re.compile(r'shortcut|quant')

# Attention names before diffusers 0.17, found in the weights of 2022, and their current names.
FORMER = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


def table(config: SDVAEConfig) -> list[Entry]:
  """Return the name table between the parameters of an SDVAE and diffusers' tensors."""
  model = nnx.eval_shape(lambda: SDVAE(config, rngs=nnx.Rngs(0)))
  layers = _layers(config)
  entries = []
  for path, leaf in jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param))):
    keys = tuple(key.key for key in path)
    ours = '.'.join(map(str, keys))
    theirs = re.sub(r'\w+\.layers\.\d+', lambda found: layers[found.group()], ours)
    for pattern, name in NAMES:
      theirs = re.sub(pattern, name, theirs)
    names = tuple(theirs.replace('@', letter) for letter in ('qkv' if '@' in theirs else '@'))
    if not ours.endswith('kernel'):
      layout = 'same'
    elif leaf.ndim == 4:
      layout = 'conv'
    else:
      layout = 'pointwise' if POINTWISE.search(ours) else 'linear'
    entries.append(Entry(keys, names, leaf.shape, layout))
  return entries


def load(source: str) -> SDVAE:
  """Load a codec from open weights in the format of diffusers.

  Args:
    source: folder or hub id of an `AutoencoderKL`, or of a pipeline with one in `vae`.

  Raises:
    InputError: a folder, file or tensor is missing or invalid, or the architecture differs.
  """
  weights = _renamed(read(locate(source, 'vae')))
  config = _config(weights)
  params = import_parameters(table(config), weights)
  graphdef, state = nnx.split(nnx.eval_shape(lambda: SDVAE(config, rngs=nnx.Rngs(0))))
  nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
  return nnx.merge(graphdef, state)


def config_to_diffusers(config: SDVAEConfig) -> dict[str, Any]:
  """Return the `config.json` of an `AutoencoderKL`, which are its constructor arguments.

  Raises:
    InputError: the norms differ in their number of groups; `AutoencoderKL` has one number for all.
  """
  widths, levels = config.image.widths, len(config.multipliers)
  groups = {min(32, width // 4) for width in widths}
  if len(groups) > 1:
    raise InputError(
      f'an autoencoder of widths {widths} has norms of {sorted(groups)} groups, AutoencoderKL of'
      ' one number alone: it cannot be exported'
    )
  return {
    '_class_name': 'AutoencoderKL',
    'latent_channels': config.channels,
    'block_out_channels': list(widths),
    'layers_per_block': config.res_blocks,
    'norm_num_groups': groups.pop(),
    'scaling_factor': config.scale,
    'down_block_types': ['DownEncoderBlock2D'] * levels,
    'up_block_types': ['UpDecoderBlock2D'] * levels,
    'sample_size': 512,  # With tiling enabled, diffusers tiles images larger than this.
  }


def _layers(config: SDVAEConfig) -> dict[str, str]:
  """Return diffusers' block name of each numbered layer, by our path."""
  levels = len(config.multipliers)
  encoder, decoder = [], []
  for level in range(levels):
    block = f'encoder.down_blocks.{level}'
    encoder += [f'{block}.resnets.{i}' for i in range(config.res_blocks)]
    encoder += [f'{block}.downsamplers.0.conv'] if level < levels - 1 else []
    block = f'decoder.up_blocks.{level}'
    decoder += [f'{block}.resnets.{i}' for i in range(config.res_blocks + 1)]
    decoder += [f'{block}.upsamplers.0'] if level < levels - 1 else []
  return {
    f'{part}.layers.{i}': name
    for part, names in (('encoder', encoder), ('decoder', decoder))
    for i, name in enumerate(names)
  }


def fields(levels: int) -> Table:
  """Return the rules for the configuration fields of an `AutoencoderKL`.

  Latents of Stable Diffusion 1.5 are only scaled. Configurations that also shift latents, or
  standardize them per channel, belong to other model families and are rejected.

  Args:
    levels: number of resolution levels.
  """
  return {
    'in_channels': Only(3, 3),
    'out_channels': Only(3, 3),
    'down_block_types': Only(('DownEncoderBlock2D',) * levels),
    'up_block_types': Only(('UpDecoderBlock2D',) * levels),
    'block_out_channels': Read(),
    'layers_per_block': Read(),
    'act_fn': Only('silu', 'silu', also=('swish',)),
    'latent_channels': Read(),
    'norm_num_groups': Read(),
    'sample_size': Free('the size from which diffusers decodes in tiles, where that is asked for'),
    'scaling_factor': Read(),
    'shift_factor': Only(None, None, also=(0,)),
    'latents_mean': NONE,
    'latents_std': NONE,
    'force_upcast': Free('codecs compute in float32 here'),
    'use_quant_conv': Only(True, True),
    'use_post_quant_conv': Only(True, True),
    'mid_block_add_attention': Only(True, True),
  }


# Defaults of `AutoencoderKL` for fields that config.json omits.
_DEFAULTS = {
  'block_out_channels': [64],
  'layers_per_block': 1,
  'latent_channels': 4,
  'scaling_factor': SDVAEConfig.scale,
  'norm_num_groups': 32,
}


def _config(weights: Weights) -> SDVAEConfig:
  folder, found = weights.folder, {**_DEFAULTS, **weights.config}
  if (kind := found.get('_class_name')) != 'AutoencoderKL':
    raise InputError(f'{folder} holds a {kind}, an AutoencoderKL is needed')
  given = sizes(
    _Sizes,
    folder,
    found,
    {f.name: f.name for f in dataclasses.fields(_Sizes)},
    len(weights.tensors),
  )
  widths = given.block_out_channels
  check(folder, weights.config, fields(len(widths)))
  if not widths[0] or any(width % widths[0] for width in widths):
    raise InputError(
      f'{folder} is not an autoencoder like that of Stable Diffusion 1.5: block_out_channels'
      f' {list(widths)} are not multiples of the first'
    )
  if not 0 < given.scaling_factor < math.inf:
    raise InputError(f'{folder}/config.json: scaling_factor must be above 0: copy it again')
  groups = given.norm_num_groups
  if any(groups != min(32, width // 4) for width in widths):
    raise InputError(
      f'{folder}: norm_num_groups {groups} does not fit block_out_channels {list(widths)}'
    )
  return SDVAEConfig(
    channels=given.latent_channels,
    base_channels=widths[0],
    multipliers=tuple(width // widths[0] for width in widths),
    res_blocks=given.layers_per_block,
    scale=given.scaling_factor,
  )


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """The fields of `AutoencoderKL` that determine an SDVAEConfig."""

  block_out_channels: tuple[int, ...]
  layers_per_block: int
  latent_channels: int
  scaling_factor: float
  norm_num_groups: int


def _renamed(weights: Weights) -> Weights:
  """Return the weights with attention tensors renamed to the current names of diffusers."""

  def now(name: str) -> str:
    return re.sub(
      r'(mid_block\.attentions\.0)\.(query|key|value|proj_attn)\.',
      lambda found: f'{found.group(1)}.{FORMER[found.group(2)]}.',
      name,
    )

  return dataclasses.replace(weights, tensors={now(k): v for k, v in weights.tensors.items()})
