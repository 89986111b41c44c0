"""The transformer as PyTorch has it (`ttm_jax.pytorch.dit`), and ours.

Ours are stacked layers, [layers, in, out]; there each layer has tensors of its own, [out, in].
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ttm_jax.models.dit.model import DiTConfig
from ttm_jax.pretrained.fields import Read, check, sizes
from ttm_jax.pretrained.names import Entry, import_parameters, iterate_tensors
from ttm_jax.pretrained.weights import Weights
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.text.from_config import encoders

# Our paths to the names there: each pattern is replaced where it occurs, in this order.
NAMES = (
  (r'^((masked_)?blocks)\.', r'\1.@.'),
  (r'^(masked_blocks\.@\.masked_\w+)\.gate$', r'\1.alpha'),
  (r'\.(kernel|scale)$', '.weight'),
)


# What of our configuration is a matter of training, and not known there.
TRAINING = ('dtype', 'remat', 'unroll')

# In diffusers, a model's modules and the entries of its configuration must not share a name.
RENAMED = {'masked_blocks': 'num_masked_blocks'}


def config_to_torch(config: DiTConfig, texts: Mapping[str, TextEncoderSpec]) -> dict[str, Any]:
  """What `TTMTransformer` is made with, and has in its `config.json`."""
  named = [{'name': name, **dataclasses.asdict(e)} for name, e in texts.items()]
  fields = dataclasses.asdict(config)
  kept = {RENAMED.get(k, k): v for k, v in fields.items() if k not in TRAINING}
  return {'encoders': named, **kept}


def config_from_torch(weights: Weights) -> tuple[DiTConfig, dict[str, TextEncoderSpec]]:
  """The inverse; what is a matter of training is as by default.

  Raises:
    InputError: naming a field that is missing, of another kind, or not known.
  """
  fields = [f.name for f in dataclasses.fields(DiTConfig) if f.name not in TRAINING]
  names = {name: RENAMED.get(name, name) for name in fields}
  check(weights.folder, weights.config, dict.fromkeys(['encoders', *names.values()], Read()))
  made = sizes(DiTConfig, weights.folder, weights.config, names, len(weights.tensors))
  return made, encoders(weights.config, weights.folder)


def table(params: Mapping[str, Any]) -> list[Entry]:
  """The name table of a transformer.

  Args:
    params: its nested dict of parameters, or of their shapes (`jax.ShapeDtypeStruct`).
  """
  entries = []
  for path, leaf in jax.tree.leaves_with_path(params):
    keys = tuple(key.key for key in path)
    # A name there is parted by dots, so that a text encoder's cannot have any.
    theirs = '.'.join(str(key).replace('.', '_') for key in keys)
    for pattern, name in NAMES:
      theirs = re.sub(pattern, name, theirs)
    stacked = '@' in theirs
    names = [theirs.replace('@', str(i)) for i in range(leaf.shape[0])] if stacked else [theirs]
    layout = 'linear' if keys[-1] == 'kernel' else 'same'
    entries.append(Entry(keys, tuple(names), leaf.shape, layout, stacked))
  return entries


def to_torch(params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors there with their names, contiguous, one at a time; see `iterate_tensors`.

  Args:
    params: nested dict of arrays, as `nnx.to_pure_dict` gives it, or of what has a `shape` and
      becomes an array when NumPy asks.
  """
  return iterate_tensors(table(params), params)


def from_torch(weights: Weights, like: Mapping[str, Any]) -> dict[str, Any]:
  """Our parameters from the tensors there.

  Args:
    like: nested dict of the shapes of our parameters.

  Raises:
    InputError: naming a tensor that is missing, of another shape, or without a place.
  """
  return import_parameters(table(like), weights)
