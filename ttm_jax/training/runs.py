"""A run directory: what stands in it, and how others read it.

config.json        the fully resolved configuration
context/           codec and empty text (see `data.context`); for a codec run, the codec
checkpoints/       Orbax, one folder a step
metrics.jsonl      one line a log step
tensorboard/       the same for TensorBoard
samples/           pictures made with the averaged weights
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ttm_jax.errors import InputError
from ttm_jax.settings import first_difference, from_json, to_json
from ttm_jax.training.checkpoint import Checkpoints

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'

# What a continued run may change: how long it runs and how often it speaks, not what it computes.
FREE = {
  'train': (
    'steps',
    'log_every',
    'sample_every',
    'evaluate_every',
    'checkpoint_every',
    'keep_last',
    'keep_every',
  ),
  'data': ('path', 'threads'),
  'mesh': (),
}


def default_workdir(config_path: str) -> Path:
  """runs/<config>-<date>, of now."""
  now = datetime.datetime.now().strftime('%Y%m%d-%H%M%S')
  return Path('runs') / f'{Path(config_path).stem}-{now}'


def open_run(workdir: Path, config: ConfigDict, write: bool) -> None:
  """Creates the run directory, or makes sure that it belongs to this configuration.

  Args:
    write: whether this process creates it (one of them does).

  Raises:
    InputError: if it holds another run.
  """
  path = workdir / CONFIG
  if path.exists():
    found = first_difference(_bound(from_json(path.read_text())), _bound(config))
    if found:
      key, old, new = found
      raise InputError(
        f'{workdir} holds another run: config.{key} is {old!r} there and {new!r} here; choose'
        ' another --workdir, or the same value'
      )
  if write:
    workdir.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.partial')
    partial.write_text(to_json(config))
    partial.rename(path)


def _bound(config: ConfigDict) -> dict[str, Any]:
  """The part of a configuration that a run may not change."""
  values = config.to_dict()
  for section, keys in FREE.items():
    if isinstance(values.get(section), dict):
      values[section] = {
        k: v for k, v in values[section].items() if k not in keys and section != 'mesh'
      }
  return values


def read_config(run: str | Path) -> ConfigDict:
  """The configuration of a run.

  Raises:
    InputError: if there is no run.
  """
  path = Path(run) / CONFIG
  if not path.exists():
    raise InputError(f'{run} is no run directory: {path} is missing')
  return from_json(path.read_text())


def read_parameters(run: str | Path) -> dict:
  """The averaged parameters of the newest checkpoint of a run, as arrays on this host.

  Raises:
    InputError: if there is no checkpoint.
  """
  checkpoints = Checkpoints(Path(run) / CHECKPOINTS)
  step = checkpoints.latest()
  if step is None:
    raise InputError(f'run {run} has no checkpoint yet: train it longer, or give another run')
  try:
    return checkpoints.read_ema(step)
  finally:
    checkpoints.close()


def check_same_architecture(
  expected: Mapping[str, Any], found: Mapping[str, Any], run: str | Path, ignore: tuple[str, ...]
) -> None:
  """Raises InputError that names the first field in which two model configurations differ."""

  def kept(values):
    return {k: v for k, v in values.items() if k not in ignore}

  difference = first_difference(kept(expected), kept(found))
  if difference:
    key, wanted, got = difference
    raise InputError(
      f'run {run} has another architecture: model.{key} is {got!r} there, {wanted!r} is needed'
    )


def check_same_parameters(
  expected: Mapping[str, Any], found: Mapping[str, Any], run: str | Path
) -> None:
  """Raises InputError that names the first parameter whose shape is not the expected one."""
  difference = first_difference(expected, found)
  if difference:
    key, wanted, got = difference
    raise InputError(
      f'the checkpoint of run {run} is of another architecture: parameter {key} is {got}, its'
      f' config.json asks for {wanted}'
    )
