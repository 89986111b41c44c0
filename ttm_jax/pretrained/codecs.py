"""Our own codecs as PyTorch has them (`ttm_jax.pytorch.tae`, `.linear`), and ours."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.codecs.tae import TAE, TAEConfig
from ttm_jax.pretrained.fields import Read, check, sizes
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import Weights

# What of a TAE is about its training alone.
_TRAINING = ('dtype', 'remat')


def tae_table(config: TAEConfig) -> list[Entry]:
  """The name table of a temporal autoencoder, its measured shift and scale included."""
  model = nnx.eval_shape(lambda: TAE(config, rngs=nnx.Rngs(0)))
  entries = []
  for path, leaf in jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model))):
    keys = tuple(key.key for key in path)
    ours = '.'.join(map(str, keys))
    theirs = re.sub(r'\.(kernel|scale)$', '.weight', ours)
    layout = 'same'
    if ours.endswith('kernel'):
      layout = {2: 'linear', 3: 'conv1d', 4: 'conv'}[leaf.ndim]
    entries.append(Entry(keys, (theirs,), leaf.shape, layout))
  return entries


def tae_parameters(codec: TAE) -> dict[str, Any]:
  """The nested dict of its arrays that the table speaks of."""
  return nnx.to_pure_dict(nnx.state(codec))


def tae_config_to_torch(config: TAEConfig) -> dict[str, Any]:
  """What `TTMTemporalAutoencoder` is made with, and has in its `config.json`."""
  return {k: v for k, v in dataclasses.asdict(config).items() if k not in _TRAINING}


def tae_from_torch(weights: Weights) -> TAE:
  """The codec from a folder that holds a `TTMTemporalAutoencoder`, computing in float32.

  Raises:
    InputError: naming a field or tensor that is missing, of another kind, or without a place.
  """
  names = {f.name: f.name for f in dataclasses.fields(TAEConfig) if f.name not in _TRAINING}
  check(weights.folder, weights.config, dict.fromkeys(names, Read()))
  config = sizes(TAEConfig, weights.folder, weights.config, names, len(weights.tensors))
  params = import_parameters(tae_table(config), weights)
  graphdef, state = nnx.split(nnx.eval_shape(lambda: TAE(config, rngs=nnx.Rngs(0))))
  nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
  return nnx.merge(graphdef, state)


def linear_table(patch: Sequence[int], channels: int) -> list[Entry]:
  """The name table of a linear codec: its arrays are the same there."""
  size = 3 * math.prod(patch)
  shapes = {'basis': (size, channels), 'mean': (size,), 'scale': ()}
  return [Entry((name,), (name,), shape, 'same') for name, shape in shapes.items()]


def linear_parameters(codec: LinearCodec) -> dict[str, Any]:
  """Its arrays by name."""
  return {'basis': codec.basis, 'mean': codec.mean, 'scale': codec.scale}


def linear_config_to_torch(codec: LinearCodec) -> dict[str, Any]:
  """What `TTMLinearCodec` is made with, and has in its `config.json`."""
  return {
    'patch': codec.patch,
    'channels': codec.channels,
    'explained': codec.explained,
    'psnr': codec.psnr,
  }


@dataclasses.dataclass(frozen=True)
class _Linear:
  """The fields of `TTMLinearCodec`."""

  patch: tuple[int, int, int]
  channels: int
  explained: float
  psnr: float


def linear_from_torch(weights: Weights) -> LinearCodec:
  """The codec from a folder that holds a `TTMLinearCodec`.

  Raises:
    InputError: naming a field or tensor that is missing, of another kind, or without a place.
  """
  names = {f.name: f.name for f in dataclasses.fields(_Linear)}
  check(weights.folder, weights.config, dict.fromkeys(names, Read()))
  config = sizes(_Linear, weights.folder, weights.config, names, len(weights.tensors))
  params = import_parameters(linear_table(config.patch, config.channels), weights)
  return LinearCodec(
    **jax.tree.map(jnp.asarray, params),
    patch=config.patch,
    explained=config.explained,
    psnr=config.psnr,
  )
