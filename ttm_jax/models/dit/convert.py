"""Conversion of the DiT to and from its PyTorch implementation (`ttm_jax.pytorch.dit`).

In JAX, kernels are [in, out], stacked over the layers. In PyTorch, each layer has its own tensors,
and kernels are [out, in].
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax

from ttm_jax.models.dit.model import DiTConfig
from ttm_jax.models.preset import COMPUTE_FIELDS
from ttm_jax.pretrained.fields import Read, check, sizes
from ttm_jax.pretrained.names import Entry
from ttm_jax.pretrained.weights import Weights
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.text.from_config import encoders

# Regular expressions from JAX parameter paths to PyTorch names, applied in this order; '@' is the
# layer index.
NAMES = (
  (r'^((masked_)?blocks)\.', r'\1.@.'),
  (r'^(masked_blocks\.@\.masked_\w+)\.gate$', r'\1.alpha'),
  (r'\.(kernel|scale)$', '.weight'),
)


# In diffusers, a module and a configuration entry of a model must not have the same name.
RENAMED = {'masked_blocks': 'num_masked_blocks'}


def config_to_torch(config: DiTConfig, texts: Mapping[str, TextEncoderSpec]) -> dict[str, Any]:
  """Return the constructor arguments of `TTMTransformer`, the content of its `config.json`."""
  named = [{'name': name, **dataclasses.asdict(e)} for name, e in texts.items()]
  fields = dataclasses.asdict(config)
  kept = {RENAMED.get(k, k): v for k, v in fields.items() if k not in COMPUTE_FIELDS}
  return {'encoders': named, **kept}


def config_from_torch(weights: Weights) -> tuple[DiTConfig, dict[str, TextEncoderSpec]]:
  """Return the model config and text encoders of exported weights, with default training fields.

  Raises:
    InputError: if a field is missing, has the wrong type, or is unknown; the message names it.
  """
  fields = [f.name for f in dataclasses.fields(DiTConfig) if f.name not in COMPUTE_FIELDS]
  names = {name: RENAMED.get(name, name) for name in fields}
  check(weights.folder, weights.config, dict.fromkeys(['encoders', *names.values()], Read()))
  made = sizes(DiTConfig, weights.folder, weights.config, names, len(weights.tensors))
  return made, encoders(weights.config, weights.folder)


def table(params: Mapping[str, Any]) -> list[Entry]:
  """Return the name table of a transformer.

  Args:
    params: nested dict of its parameters, or of their shapes (`jax.ShapeDtypeStruct`).
  """
  entries = []
  for path, leaf in jax.tree.leaves_with_path(params):
    keys = tuple(key.key for key in path)
    # PyTorch separates names by dots, so the name of a text encoder cannot contain any.
    theirs = '.'.join(str(key).replace('.', '_') for key in keys)
    for pattern, name in NAMES:
      theirs = re.sub(pattern, name, theirs)
    stacked = '@' in theirs
    names = [theirs.replace('@', str(i)) for i in range(leaf.shape[0])] if stacked else [theirs]
    layout = 'linear' if keys[-1] == 'kernel' else 'same'
    entries.append(Entry(keys, tuple(names), leaf.shape, layout, stacked))
  return entries
