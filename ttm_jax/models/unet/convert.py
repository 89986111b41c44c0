"""Conversion of the U-Net to and from its PyTorch implementation (`ttm_jax.pytorch.unet`).

Tensors that diffusers has keep the names of `open_weights`; the masked layers are added. PyTorch
has one input convolution; in JAX, the noisy latents and the visual condition have one each. PyTorch
also stores the sinusoidal position tables of the frames, which are not parameters in JAX.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.models.unet import open_weights
from ttm_jax.models.unet.model import UNetConfig
from ttm_jax.models.unet.motion import positions
from ttm_jax.pretrained.fields import Read, check, sizes
from ttm_jax.pretrained.names import Entry, import_parameters, iterate_tensors
from ttm_jax.pretrained.weights import Weights
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.text.from_config import encoders

# JAX config fields and their names in the PyTorch configuration.
FIELDS = {
  'widths': 'block_out_channels',
  'units': 'layers_per_block',
  'heads': 'num_attention_heads',
  'groups': 'norm_num_groups',
  'text_width': 'cross_attention_dim',
  'channels': 'out_channels',
  'motion_length': 'motion_max_seq_length',
  'masked_blocks': 'masked_blocks',
  'masked_self': 'masked_self',
  'masked_cross': 'masked_cross',
  'masked_scope': 'masked_scope',
  'motion_norm': 'motion_norm',
  'guidance_inputs': 'guidance_inputs',
}

INPUT, VISUAL = 'conv_in.weight', 'conv_visual.weight'


def config_to_torch(config: UNetConfig, texts: Mapping[str, TextEncoderSpec]) -> dict[str, Any]:
  """Return the constructor arguments of `TTMUNet`, the content of its `config.json`."""
  levels = len(config.widths) - 1
  return {
    'encoders': [{'name': name, **dataclasses.asdict(e)} for name, e in texts.items()],
    **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
    'in_channels': config.channels + config.visual_channels,
    'motion_num_attention_heads': config.heads,
    'use_motion_mid_block': False,
    'down_block_types': ('CrossAttnDownBlockMotion',) * levels + ('DownBlockMotion',),
    'up_block_types': ('UpBlockMotion',) + ('CrossAttnUpBlockMotion',) * levels,
  }


def config_from_torch(weights: Weights) -> tuple[UNetConfig, dict[str, TextEncoderSpec]]:
  """Return the model config and text encoders of exported weights, with default training fields.

  Raises:
    InputError: if a field is missing, has the wrong type, or has an unsupported value; the message
      names it.
  """
  folder, values = weights.folder, weights.config
  made = sizes(UNetConfig, folder, values, FIELDS, len(weights.tensors))
  both = sizes(_Input, folder, values, {'in_channels': 'in_channels'}, len(weights.tensors))
  visual = both.in_channels - made.channels
  if visual < 0:
    raise InputError(f'{folder}/config.json: in_channels is below out_channels: copy it again')
  read = ['encoders', 'in_channels', *FIELDS.values()]
  rules = {**open_weights.motion_fields(made), **dict.fromkeys(read, Read())}
  check(folder, values, rules)
  return dataclasses.replace(made, visual_channels=visual), encoders(values, folder)


@dataclasses.dataclass(frozen=True)
class _Input:
  in_channels: int


def table(params: Mapping[str, Any]) -> list[Entry]:
  """Return the name table; the input convolution of the visual condition has a separate name.

  Args:
    params: nested dict of parameters, or of their shapes.
  """
  entries = []
  for entry in open_weights.entries(params):
    name = re.sub(r'(\.masked_\w+)\.gate$', r'\1.alpha', entry.theirs[0])
    entries.append(dataclasses.replace(entry, theirs=(name,)))
  return entries


def specs(params: Mapping[str, Any], motion_length: int) -> list[tuple[str, tuple[int, ...]]]:
  """Return names and shapes of the PyTorch tensors, in the order of `to_torch`.

  Args:
    params: nested dict of parameters, or of their shapes.
    motion_length: length of the position tables in frames.
  """
  shapes = {e.theirs[0]: e.tensor_shape() for e in table(params)}
  visual = shapes.pop(VISUAL, None)
  if visual is not None:
    out, channels, *kernel = shapes[INPUT]
    shapes[INPUT] = (out, channels + visual[1], *kernel)
  sinusoids = _sinusoids(params)
  return [*shapes.items(), *((name, (1, motion_length, d)) for name, d in sinusoids.items())]


def to_torch(params: Mapping[str, Any], motion_length: int) -> Iterator[tuple[str, np.ndarray]]:
  """Yield the names and tensors for PyTorch, contiguous, one at a time; see `iterate_tensors`.

  Args:
    params: nested dict of arrays.
    motion_length: length of the position tables in frames.
  """
  entries = {e.theirs[0]: e for e in table(params)}
  visual = entries.pop(VISUAL, None)
  for name, tensor in iterate_tensors(list(entries.values()), params):
    if name == INPUT and visual is not None:
      ((_, other),) = iterate_tensors([visual], params)
      tensor = np.concatenate([tensor, other], 1)
    yield name, tensor
  for name, d in _sinusoids(params).items():
    yield name, positions(motion_length, d)[None]


def from_torch(weights: Weights, like: Mapping[str, Any]) -> dict[str, Any]:
  """Return the JAX parameters from PyTorch tensors.

  Args:
    weights: the PyTorch tensors.
    like: nested dict of the shapes of the JAX parameters.

  Raises:
    InputError: if a tensor is missing, has the wrong shape, or is unexpected; the message names it.
  """
  entries, tensors = table(like), dict(weights.tensors)
  shapes = {e.theirs[0]: e.tensor_shape() for e in entries}
  if VISUAL in shapes and INPUT in tensors:
    whole, channels = np.asarray(tensors[INPUT]), shapes[INPUT][1]
    tensors[INPUT], tensors[VISUAL] = whole[:, :channels], whole[:, channels:]
  sinusoids = _sinusoids(like)
  for name, d in sinusoids.items():
    found = np.asarray(tensors.get(name, np.nan))
    # bfloat16 has 8 significant bits.
    if found.ndim != 3 or not np.allclose(found[0], positions(found.shape[1], d), atol=1e-2):
      raise InputError(f'{weights.folder}: {name} is not the sinusoid that belongs there')
  changed = dataclasses.replace(weights, tensors=tensors)
  return import_parameters(entries, changed, ignored=sinusoids)


def _sinusoids(params: Mapping[str, Any]) -> dict[str, int]:
  """Return the names and widths of the position tables of the PyTorch U-Net."""
  found = {}
  for path, leaf in jax.tree.leaves_with_path(params):
    name = open_weights.their_name(open_weights.dotted([key.key for key in path]))
    if name.endswith('transformer_blocks.0.norm1.weight') and open_weights.MOTION in name:
      block = name.removesuffix('.norm1.weight')
      found[f'{block}.{open_weights.POSITIONS}'] = leaf.shape[0]
  return found
