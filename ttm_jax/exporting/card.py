"""The model card: README.md of an exported folder."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from ml_collections import ConfigDict

from ttm_jax.errors import InputError
from ttm_jax.exporting.stages import StageRun
from ttm_jax.untrusted import is_repository

# Licenses, as the hub names them, of open weights that runs can start from.
LICENCES = {
  'stable-diffusion-v1-5/stable-diffusion-v1-5': 'creativeml-openrail-m',
  'guoyww/animatediff-motion-adapter-v1-5-3': 'apache-2.0',
}


def public(config: ConfigDict) -> dict[str, Any]:
  """Return a configuration without machine-specific values: mesh, and paths of local folders."""
  values = json.loads(json.dumps(config.to_dict()))
  values['data'].pop('path', None)
  values.pop('mesh', None)
  values.pop('init_cache', None)
  start = values['init_from']
  if start.startswith('pretrained:'):
    parts = start.removeprefix('pretrained:').split(',')
    values['init_from'] = 'pretrained:' + ','.join(named(part.strip()) for part in parts)
  else:
    values['init_from'] = _last(start)
  return values


def named(weights: str) -> str:
  """Return a hub id unchanged, and a folder as its last path component, to keep paths private."""
  return weights if is_repository(weights) else _last(weights)


def _last(path: str) -> str:
  return ''.join(c for c in path.rstrip('/').rpartition('/')[2] if c.isprintable())


def written(
  stages: Mapping[str, StageRun],
  codec: str,
  sizes: Mapping[str, int],
  dtype: str,
  encoders: Mapping[str, str],
  samples: Sequence[str],
  licence: str,
  training: Mapping[str, Any],
) -> str:
  """Return the Markdown text of the model card.

  Args:
    stages: runs by stage name, `stage1` and `stage2`.
    codec: class name of the codec.
    sizes: size in bytes of each network and of the codec, by name.
    dtype: dtype of the networks, 'bf16' or 'fp32'.
    encoders: hub id or folder of each pretrained text encoder, by name.
    samples: paths of sample images, relative to the exported folder.
    licence: license of the weights; empty if the user gave none.
    training: configurations by stage name.

  Raises:
    InputError: a configuration lacks a field that the card shows.
  """
  context = stages['stage2'].context
  base = list(dict.fromkeys(name for stage in stages.values() for name in map(named, stage.base)))
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('ttm_jax.exporting', '.'),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
  )
  parameters = {
    name: sum(_count(spec.shape) for spec in stage.specs) for name, stage in stages.items()
  }
  values = dict(
    stages=stages,
    encoding=context.encoding,
    latents=context.latent_shape,
    codec=codec,
    sizes=sizes,
    parameters=parameters,
    dtype=dtype,
    encoders=encoders,
    samples=samples,
    licence=licence,
    base={name: LICENCES.get(name, '') for name in base},
    training=training,
    ranges=_ranges,
  )
  try:
    return environment.get_template('card.md.j2').render(values)
  except jinja2.UndefinedError as error:
    raise InputError(f'config.json of a run lacks what its card tells ({error})') from error


def _ranges(stage: StageRun) -> str:
  """Return the ranges of the guidance scales that a network takes as inputs, image before text."""
  ranges = stage.settings['scale_ranges'].values()
  return ', '.join(f'{low:g} to {high:g}' for low, high in ranges) or 'none'


def _count(shape: Sequence[int]) -> int:
  count = 1
  for size in shape:
    count *= size
  return count
