"""The base of a LoRA run: a description by which another base is recognized.

A checkpoint of such a run has no base parameters. These are read again from where the run started,
and only those that it started from belong to its adapters.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from ttm_jax.atomic import write_text
from ttm_jax.data.storage import is_local
from ttm_jax.errors import InputError
from ttm_jax.training.partial import by_name

FILE = 'base.json'

# By dotted path the shape and the checksum (see `digests`) of each parameter.
Fingerprint = dict[str, list[Any]]


def of(params: Any, sums: Sequence[int]) -> Fingerprint:
  """Return the fingerprint of parameters, given their checksums in the order of the leaves."""
  named = by_name(params).items()
  return {name: [list(x.shape), s] for (name, x), s in zip(named, sums, strict=True)}


def write(run: epath.Path, found: Fingerprint) -> None:
  """Write the fingerprint to a run directory."""
  text = json.dumps({'parameters': found}, indent=1) + '\n'
  if is_local(run):
    write_text(run / FILE, text)
  else:
    (run / FILE).write_text(text)


def read(run: epath.PathLike) -> Fingerprint:
  """Return the fingerprint of a run.

  Raises:
    InputError: if it is missing or damaged.
  """
  path = epath.Path(run) / FILE
  try:
    found = json.loads(path.read_text())['parameters']
    return {str(name): [list(shape), int(total)] for name, (shape, total) in found.items()}
  except (OSError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
    raise InputError(
      f'{path}, which describes the base of the adapters, is missing or damaged ({error}): take it'
      ' from a copy of the run'
    ) from error


def check(found: Mapping[str, Any], wanted: Fingerprint, run: epath.PathLike, base: str) -> None:
  """Raise InputError if parameters are not those of the base of a run.

  Args:
    found: by dotted path the shape and the checksum of parameters, or the shape alone.
    wanted: the fingerprint of the run. Names and shapes must be equal, and the given checksums.
    run: the run, for the message.
    base: where the parameters are from, for the message.
  """
  for name in sorted(found.keys() | wanted.keys()):
    theirs, ours = found.get(name, []), wanted.get(name, [])
    if not theirs or theirs != ours[: len(theirs)]:
      raise InputError(
        f'{base} is not the base that run {run} adapts: parameter {name} differs; put that base'
        ' back, or let init_from name the place where it is now'
      )


def check_value(name: str, total: int, wanted: Fingerprint, run: epath.PathLike, base: str) -> None:
  """Raise InputError if one parameter has another checksum than that of the base of a run."""
  shape, _ = wanted[name]
  check({**wanted, name: [shape, total]}, wanted, run, base)
