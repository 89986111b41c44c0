"""The transformer as PyTorch has it (`ttm_jax.pytorch.dit`), and ours.

Ours are stacked layers, [layers, in, out]; there each layer has tensors of its own, [out, in]. The
masked blocks extend the plain ones there, so that `base` is no part of their names.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ttm_jax.models.dit import DiTConfig
from ttm_jax.pretrained.names import Entry, import_parameters, iterate_tensors
from ttm_jax.pretrained.weights import Weights
from ttm_jax.text.encoders import Encoder

# Our paths to the names there: each pattern is replaced where it occurs, in this order.
NAMES = (
  (r'^((masked_)?blocks)\.', r'\1.@.'),
  (r'^masked_blocks\.@\.base', 'masked_blocks.@'),
  (r'^(masked_blocks\.@\.masked_\w+)\.gate$', r'\1.alpha'),
  (r'\.(kernel|scale)$', '.weight'),
)


# What of our configuration is a matter of training, and not known there.
TRAINING = ('dtype', 'remat', 'unroll')

# In diffusers, a model's modules and the entries of its configuration must not share a name.
RENAMED = {'masked_blocks': 'num_masked_blocks'}


def config_to_torch(config: DiTConfig, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
  """What `TTMTransformer` is made with, and has in its `config.json`."""
  sizes = dataclasses.asdict(config)
  named = [{'name': name, **dataclasses.asdict(e)} for name, e in encoders.items()]
  kept = {RENAMED.get(k, k): v for k, v in sizes.items() if k not in TRAINING}
  return {'encoders': named, **kept}


def config_from_torch(values: Mapping[str, Any]) -> tuple[DiTConfig, dict[str, Encoder]]:
  """The inverse; what is a matter of training is as by default.

  Raises:
    KeyError: if a size is missing.
  """
  fields = [f.name for f in dataclasses.fields(DiTConfig) if f.name not in TRAINING]
  found = {k: values[RENAMED.get(k, k)] for k in fields}
  sizes: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
  encoders = [dict(e) for e in values['encoders']]
  return DiTConfig(**sizes), {e.pop('name'): Encoder(**e) for e in encoders}


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
