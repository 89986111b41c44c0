"""Convert the temporal autoencoder to its PyTorch counterpart (`ttm_jax.pytorch.tae`) and back."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.codecs.tae import TAE, TAEConfig
from ttm_jax.pretrained.fields import Read, check, sizes
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import Weights

# Fields of `TAEConfig` that affect training only.
_TRAINING = ('dtype', 'remat')


def table(config: TAEConfig) -> list[Entry]:
  """Return the name table of a temporal autoencoder, including its latent shift and scale."""
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


def parameters(codec: TAE) -> dict[str, Any]:
  """Return the nested dict of the arrays in `table`."""
  return nnx.to_pure_dict(nnx.state(codec))


def config_to_torch(config: TAEConfig) -> dict[str, Any]:
  """Return the constructor arguments of `TTMTemporalAutoencoder`."""
  return {k: v for k, v in dataclasses.asdict(config).items() if k not in _TRAINING}


def from_torch(weights: Weights) -> TAE:
  """Return the codec of an exported `TTMTemporalAutoencoder`; its compute dtype is float32.

  Args:
    weights: configuration and tensors of the exported folder.

  Raises:
    InputError: a field or tensor is missing, unknown, or of the wrong type or shape.
  """
  names = {f.name: f.name for f in dataclasses.fields(TAEConfig) if f.name not in _TRAINING}
  check(weights.folder, weights.config, dict.fromkeys(names, Read()))
  config = sizes(TAEConfig, weights.folder, weights.config, names, len(weights.tensors))
  params = import_parameters(table(config), weights)
  graphdef, state = nnx.split(nnx.eval_shape(lambda: TAE(config, rngs=nnx.Rngs(0))))
  nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
  return nnx.merge(graphdef, state)
