"""Layout of a run directory, and functions to read and check one.

config.json        the fully resolved configuration
base.json          describes the parameters that LoRA adapts (see `fingerprint`); LoRA runs only
context/           codec and encodings of the empty text (see `data.context`); denoisers only
codec/             the trained codec; codec runs only
checkpoints/       Orbax, one folder per step
damaged/           checkpoints that could not be read
in_use.lock        while a job trains there (see `lock`)
starts.jsonl       one line per start of the run
metrics.jsonl      one line per log step
tensorboard/       the same metrics for TensorBoard
samples/           from the EMA weights: one contact sheet per sampled step, and newest.gif
profile/           profiler traces, if requested
"""

import datetime
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ttm_jax.atomic import write_text
from ttm_jax.data.storage import is_local
from ttm_jax.errors import InputError
from ttm_jax.settings import first_difference, from_json, to_json

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'

# Fields that may change when a run is resumed, besides those of mesh and job: run length, logging
# and checkpoint intervals, location of the data, and memory options. Model and loss stay the same.
FREE = {
  'train': (
    'steps',
    'log_every',
    'sample_every',
    'metrics',
    'evaluate_every',
    'checkpoint_every',
    'keep_last',
    'keep_every',
    'keep_best',
    'accumulate',
  ),
  'data': ('path', 'threads'),
  'model': ('remat', 'unroll'),
  'optimizer': ('offload',),
}


def default_workdir(config_path: str) -> Path:
  """Return runs/<config>-<date>-<time> for the current local time."""
  now = datetime.datetime.now().strftime('%Y%m%d-%H%M%S')
  return Path('runs') / f'{Path(config_path).stem}-{now}'


def check_run(workdir: epath.Path, config: ConfigDict) -> None:
  """Check that a run directory is new or holds a run of the same configuration.

  Fields in `FREE`, init_cache and the sections mesh and job may differ. So may the place of the
  base of a LoRA run (init_from), and the section lora of other runs.

  Raises:
    InputError: if it holds a run of another configuration, or cannot be accessed.
  """
  path = workdir / CONFIG
  try:
    if not path.exists():
      return
  except ImportError as error:
    raise InputError(f"{workdir}: {error}, with pip install 'ttm_jax[gcs]'") from error
  both = [_bound(read_config(workdir)), _bound(config)]
  adapted = sum(bool((values.get('lora') or {}).get('rank')) for values in both)
  # Runs of earlier versions have no section lora; a fingerprint tells whether a base is the same.
  free = {0: 'lora', 1: '', 2: 'init_from'}[adapted]
  there, here = ({k: v for k, v in values.items() if k != free} for values in both)
  found = first_difference(there, here)
  if found:
    key, old, new = found
    raise InputError(
      f'{workdir} holds another run: config.{key} is {old!r} there and {new!r} here; choose'
      ' another --workdir, or the same value'
    )


def write_config(workdir: epath.Path, config: ConfigDict) -> None:
  """Create the run directory and write config.json atomically."""
  workdir.mkdir(parents=True, exist_ok=True)
  if is_local(workdir):
    write_text(workdir / CONFIG, to_json(config))
    return
  partial = (workdir / CONFIG).with_suffix('.partial')
  partial.write_text(to_json(config))
  partial.replace(workdir / CONFIG)


def _bound(config: ConfigDict) -> dict[str, Any]:
  """Return the fields of a configuration that must not change when a run is resumed."""
  values = config.to_dict()
  for section, keys in FREE.items():
    if isinstance(values.get(section), dict):
      values[section] = {k: v for k, v in values[section].items() if k not in keys}
  for name in ('mesh', 'job', 'init_cache'):
    values.pop(name, None)
  values.setdefault('first_frame', 'concat')  # What runs of earlier versions do.
  if values['task'] == 'codec':
    values['loss'].setdefault('labels', 0.0)
  else:
    values['train'].setdefault('exchanged_texts', 0.0)
  return values


def read_config(run: epath.PathLike) -> ConfigDict:
  """Return the configuration of a run.

  Raises:
    InputError: if there is no run, or config.json is corrupt.
  """
  path = epath.Path(run) / CONFIG
  if not path.exists():
    raise InputError(f'{run} is not a run directory: {path} is missing')
  try:
    return from_json(path.read_text())
  except (OSError, TypeError, ValueError, RecursionError) as error:
    raise InputError(f'{path} is damaged ({error}); take it from a copy of the run') from error


def check_same_architecture(
  expected: Mapping[str, Any],
  found: Mapping[str, Any],
  run: epath.PathLike,
  ignore: Collection[str],
) -> None:
  """Raise InputError naming the first field in which two model configurations differ.

  Args:
    expected: the configuration that is needed.
    found: the configuration of the run.
    run: the run, for the message.
    ignore: fields that may differ.
  """

  def kept(values):
    return {k: v for k, v in values.items() if k not in ignore}

  difference = first_difference(kept(expected), kept(found))
  if difference:
    key, wanted, got = difference
    raise InputError(
      f'run {run} has another architecture: model.{key} is {got!r} there, {wanted!r} is needed'
    )


def check_same_parameters(
  expected: Mapping[str, Any], found: Mapping[str, Any], run: epath.PathLike
) -> None:
  """Raise InputError naming the first parameter with an unexpected shape.

  Args:
    expected: nested dict of the shapes that are needed.
    found: nested dict of the shapes in the checkpoint.
    run: the run, for the message.
  """

  def named(shapes):  # Lists of modules have integers as keys, which a checkpoint has as text.
    if isinstance(shapes, Mapping):
      return {str(key): named(value) for key, value in shapes.items()}
    return shapes

  difference = first_difference(named(expected), named(found))
  if difference:
    key, wanted, got = difference
    raise InputError(
      f'the checkpoint of run {run} is of another architecture: parameter {key} is {got} there,'
      f' {wanted} by its configuration and dataset'
    )
