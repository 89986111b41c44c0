"""Convert the autoencoders of Wan to diffusers' `AutoencoderKLWan` and back.

Single-file checkpoints of the original repository are read too. They have other tensor names and no
configuration, so their sizes and latent statistics must be those of the release.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.codecs.wan_vae import WAN21, WanVAE, WanVAEConfig
from ttm_jax.errors import InputError
from ttm_jax.json_file import read_object
from ttm_jax.pretrained.fields import Free, Only, Read, Table, check, sizes
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import CONFIG, Weights, locate, read, read_file

CLASS = 'AutoencoderKLWan'
SUFFIX = '.safetensors'  # Of a single-file checkpoint.

# Replacements that turn our parameter paths into the names of diffusers and of the original
# repository, once the layers of the levels are named. Applied in this order.
_DIFFUSERS = (
  (r'middle\.block1', 'mid_block.resnets.0'),
  (r'middle\.block2', 'mid_block.resnets.1'),
  (r'middle\.attention', 'mid_block.attentions.0'),
  (r'head\.norm', 'norm_out'),
  (r'head\.conv', 'conv_out'),
  (r'shortcut', 'conv_shortcut'),
  (r'quant\.', 'quant_conv.'),
)
_ORIGINAL = (
  (r'middle\.block1', 'middle.0'),
  (r'middle\.attention', 'middle.1'),
  (r'middle\.block2', 'middle.2'),
  (r'head\.norm', 'head.0'),
  (r'head\.conv', 'head.2'),
  (r'norm1', 'residual.0'),
  (r'conv1', 'residual.2'),
  (r'norm2', 'residual.3'),
  (r'conv2', 'residual.6'),
  (r'conv_in|^quant', 'conv1'),
  (r'^post_quant', 'conv2'),
)
_BOTH = (
  (r'qkv', 'to_qkv'),
  (r'\.out\.', '.proj.'),
  (r'space', 'resample.1'),
  (r'time', 'time_conv'),
  (r'kernel$', 'weight'),
  (r'scale$', 'gamma'),
)


def table(config: WanVAEConfig, original: bool = False) -> list[Entry]:
  """Return the name table between the parameters of a WanVAE and PyTorch tensors.

  Args:
    config: size of the autoencoder.
    original: whether the names are those of the original repository instead of diffusers.
  """
  model = nnx.eval_shape(lambda: WanVAE(config, rngs=nnx.Rngs(0)))
  entries = []
  for path, leaf in jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param))):
    keys = tuple(key.key for key in path)
    ours = '.'.join(map(str, keys))
    theirs = ours
    if found := re.match(r'(\w+)\.levels\.(\d+)\.layers\.(\d+)', ours):
      layer = _layer(config, original, found[1], int(found[2]), int(found[3]))
      theirs = f'{found[1]}.{layer}{ours[found.end() :]}'
    for pattern, name in (*(_ORIGINAL if original else _DIFFUSERS), *_BOTH):
      theirs = re.sub(pattern, name, theirs)
    entries.append(Entry(keys, (theirs,), leaf.shape, _layout(ours, leaf.ndim)))
  return entries


def _layer(config: WanVAEConfig, original: bool, part: str, level: int, index: int) -> str:
  """Return the name of a layer of a level of the encoder or the decoder."""
  up = part == 'decoder'
  blocks = config.res_blocks + up
  # In the original repository, and in the encoder of 2.1 in diffusers, one list has all layers.
  flat = level * (blocks + 1) + index
  if original:
    name = 'upsamples' if up else 'downsamples'
    return f'{name}.{level}.{name}.{index}' if config.residual else f'{name}.{flat}'
  if not up and not config.residual:
    return f'down_blocks.{flat}'
  block = f'{"up" if up else "down"}_blocks.{level}'
  if index < blocks:
    return f'{block}.resnets.{index}'
  if not config.residual:
    return f'{block}.upsamplers.0'
  return f'{block}.{"upsampler" if up else "downsampler"}'


def _layout(ours: str, ndim: int) -> str:
  per_frame = '.attention.' in ours
  if ours.endswith('scale'):
    return 'scale2d' if per_frame else 'scale3d'
  if not ours.endswith('kernel'):
    return 'same'
  return {2: 'pointwise' if per_frame else 'pointwise3d', 4: 'conv', 5: 'conv3d'}[ndim]


def parameters(codec: WanVAE) -> dict[str, Any]:
  """Return the nested dict of the arrays in `table`."""
  return nnx.to_pure_dict(nnx.state(codec, nnx.Param))


def load(source: str, expected: WanVAEConfig | None = None) -> WanVAE:
  """Load a codec from open weights; tensors in half precision are converted to float32.

  Args:
    source: folder or hub id of an `AutoencoderKLWan`, or of a pipeline with one in `vae`; or a
      single safetensors file with the tensor names of the original repository, if `expected` is
      given.
    expected: the release that is needed, `WAN21` or `WAN22`. Sizes and statistics of a folder may
      differ from it, the generation may not.

  Raises:
    InputError: a folder, file or tensor is missing or invalid, the architecture differs, or the
      autoencoder is of the other generation.
  """
  path = Path(source)
  if expected is not None and path.suffix == SUFFIX and path.is_file():
    return from_original(read_file(path, half=True), expected)
  folder = locate(source, 'vae')
  if (folder / CONFIG).is_file():  # Check before reading gigabytes of tensors.
    config = read_object(folder / CONFIG)
    if (kind := config.get('_class_name')) != CLASS:
      raise InputError(
        f'{folder} holds a {kind}, an {CLASS} is needed: name a repository in the format of'
        ' diffusers, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers'
      )
    if expected is not None:
      _check_generation(folder, bool(config.get('is_residual')), expected)
  weights = read(folder, half=True)
  found = config_from_diffusers(weights)
  return _built(found, import_parameters(table(found), weights))


def from_original(weights: Weights, config: WanVAEConfig) -> WanVAE:
  """Return the codec of a checkpoint with the tensor names of the original repository.

  Args:
    weights: the tensors.
    config: size and latent statistics of the autoencoder.

  Raises:
    InputError: a tensor is missing, unknown or of another shape, or the autoencoder is of the other
      generation.
  """
  residual = any('.downsamples.0.downsamples.' in name for name in weights.tensors)
  _check_generation(weights.folder, residual, config)
  return _built(config, import_parameters(table(config, original=True), weights))


def _check_generation(path: Path, residual: bool, expected: WanVAEConfig) -> None:
  """Raise InputError if weights are of Wan 2.2 where 2.1 is expected, or the other way round."""
  if residual != expected.residual:
    names = [f'Wan 2.{1 + generation}' for generation in (residual, expected.residual)]
    raise InputError(
      f'{path} holds the autoencoder of {names[0]}, that of {names[1]} is needed: write'
      f' --codec wan2{1 + residual}_vae:{path}, or name other weights'
    )


def _built(config: WanVAEConfig, params: dict[str, Any]) -> WanVAE:
  graphdef, state = nnx.split(nnx.eval_shape(lambda: WanVAE(config, rngs=nnx.Rngs(0))))
  nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
  return nnx.merge(graphdef, state)


def config_to_diffusers(config: WanVAEConfig) -> dict[str, Any]:
  """Return the `config.json` of an `AutoencoderKLWan`, which are its constructor arguments."""
  pixels = 3 * config.patch**2
  return {
    '_class_name': CLASS,
    'base_dim': config.base_channels,
    'decoder_base_dim': config.decoder_channels,
    'z_dim': config.channels,
    'dim_mult': list(config.multipliers),
    'num_res_blocks': config.res_blocks,
    'attn_scales': [],
    'temperal_downsample': [time == 2 for time in config.halvings],
    'dropout': 0.0,
    'latents_mean': list(config.mean),
    'latents_std': list(config.std),
    'is_residual': config.residual,
    'in_channels': pixels,
    'out_channels': pixels,
    'patch_size': config.patch if config.patch > 1 else None,
    'scale_factor_temporal': 4,
    'scale_factor_spatial': config.side,
  }


# Fields of our configuration, and those of `AutoencoderKLWan` that they are read from.
_READ = {
  'channels': 'z_dim',
  'base_channels': 'base_dim',
  'decoder_channels': 'decoder_base_dim',
  'multipliers': 'dim_mult',
  'res_blocks': 'num_res_blocks',
  'residual': 'is_residual',
  'patch': 'patch_size',
  'mean': 'latents_mean',
  'std': 'latents_std',
}

# Defaults of `AutoencoderKLWan` for fields that config.json omits.
_DEFAULTS: dict[str, Any] = {theirs: getattr(WAN21, ours) for ours, theirs in _READ.items()}
_DEFAULTS |= {'decoder_base_dim': None, 'patch_size': None}


def fields(levels: int, pixels: int) -> Table:
  """Return the rules for the configuration fields of an `AutoencoderKLWan`.

  Args:
    levels: number of resolution levels.
    pixels: values per patch.
  """
  halved = (False,) * (levels - 3) + (True, True)
  return {
    **dict.fromkeys(_READ.values(), Read()),
    'attn_scales': Only((), ()),
    'temperal_downsample': Only(halved, (False, True, True)),
    'dropout': Free('dropout is off except in training, and this codec is not trained here'),
    'in_channels': Only(pixels, 3),
    'out_channels': Only(pixels, 3),
    'scale_factor_temporal': Free('pipelines of diffusers compute sizes with it; the factor is 4'),
    'scale_factor_spatial': Free('diffusers decodes in tiles with it; it follows from the levels'),
    'clip_output': Free('the decoded video is clipped to [-1, 1] in any case'),
  }


def config_from_diffusers(weights: Weights) -> WanVAEConfig:
  """Return the configuration of an `AutoencoderKLWan`.

  Raises:
    InputError: a field is unknown, invalid or has an unsupported value.
  """
  found: dict[str, Any] = {**_DEFAULTS, **weights.config}
  if found['patch_size'] is None:
    found['patch_size'] = 1
  if found['decoder_base_dim'] is None:
    found['decoder_base_dim'] = found['base_dim']
  given = sizes(WanVAEConfig, weights.folder, found, _READ, len(weights.tensors))
  check(weights.folder, weights.config, fields(len(given.multipliers), 3 * given.patch**2))
  return given
