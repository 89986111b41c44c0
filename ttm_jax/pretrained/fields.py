"""What a reader makes of each field of a `config.json`.

Some fields of a model change what it computes but not the shapes of its tensors. A reader that
skipped one would load the weights and compute something else. So each reader has a table with a
rule for every field of the class that it reads:

    Read()         the reader makes its own configuration of it
    Only(value)    this package computes that value alone; another one is refused by name
    Free(reason)   it does not change what is computed here, for that reason

A field without a rule is refused, unless it is switched off (null, false or empty).
"""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError, nearest

# Sizes that may be 0, and those that count layers.
_OPTIONAL = ('masked_blocks', 'visual_channels', 'temporal_downsamples')
_COUNTS = ('layers', 'units', 'res_blocks', 'layers_per_block', 'masked_blocks')

TENSORS = object()  # In place of a default: where the field is absent, the tensors decide.
_LARGEST = 2**24  # Of any size in a configuration.


@dataclasses.dataclass(frozen=True)
class Read:
  """A field from which the reader makes its own configuration."""


@dataclasses.dataclass(frozen=True)
class Only:
  """A field of which one value is computed here.

  Attributes:
    value: that value. A list of equal values stands for one of them.
    default: the value that the original takes where the field is absent, or TENSORS.
    also: other ways of saying the same.
  """

  value: Any
  default: Any = TENSORS
  also: tuple[Any, ...] = ()

  def allows(self, found: Any) -> bool:
    return any(_same(found, value) for value in (self.value, *self.also))


@dataclasses.dataclass(frozen=True)
class Free:
  """A field that changes nothing here, with the reason."""

  reason: str


Rule = Read | Only | Free
Table = Mapping[str, Rule]

# A switch that is off, where null says so too.
OFF = Only(False, False, also=(None,))
NONE = Only(None, None)


def check(folder: Path, config: Mapping[str, Any], table: Table) -> None:
  """Raise InputError that names the first field that this package does not compute.

  Args:
    folder: of the model, for the error.
    config: what its `config.json` says; names that begin with `_` are notes of the library.
  """
  for name, rule in table.items():
    if isinstance(rule, Only):
      found = config.get(name, rule.default)
      if found is not TENSORS and not rule.allows(found):
        absent = '' if name in config else ' (the default, since config.json does not say)'
        raise InputError(
          f'{folder} holds another architecture: {name} is {_short(found)} there{absent},'
          f' {_short(rule.value)} is needed'
        )
  for name, value in config.items():
    if name not in table and not name.startswith('_') and not _is_off(value):
      raise InputError(
        f'{folder} holds another architecture: {name} is {_short(value)} there, a field that is'
        f' not known here{nearest(name, table)}'
      )


def sizes(
  kind: type, folder: Path, config: Mapping[str, Any], names: Mapping[str, str], layers: int
) -> Any:
  """Return a dataclass made of the fields of a `config.json`.

  Args:
    kind: the dataclass; its annotations are int, float, str, bool or a tuple of one of them.
    names: the field in the file for each field of `kind` to be read.
    layers: the most layers that there can be: the number of tensors.

  Fields of the file that are not named are not looked at; see `check`.

  Raises:
    InputError: a field is missing or has a value of another type, or the values do not fit.
  """
  hints = typing.get_type_hints(kind)
  found = {}
  for ours, theirs in names.items():
    if theirs not in config:
      raise InputError(f'{folder}/config.json lacks {theirs}: copy it again')
    found[ours] = _typed(config[theirs], hints[ours], f'{folder}/config.json: {theirs}')
    value = found[ours]
    if value == 0 and type(value) is int and ours not in _OPTIONAL:
      raise InputError(f'{folder}/config.json: {theirs} is 0, it must be above: copy it again')
    most = len(value) if isinstance(value, tuple) else value if ours in _COUNTS else 0
    if most > layers:
      raise InputError(
        f'{folder}/config.json: {theirs} asks for more layers than the {layers} tensors beside it'
        ' can fill: copy the folder again'
      )
  try:
    return kind(**found)
  except (ValueError, ArithmeticError) as error:
    raise InputError(f'{folder}/config.json is no configuration of it: {error}') from error


def _typed(value: Any, hint: Any, where: str) -> Any:
  """The value as a type says, lists as tuples.

  Raises:
    InputError: it is of another type.
  """
  if isinstance(hint, types.GenericAlias):
    inner = typing.get_args(hint)
    length = None if inner[-1] is ... else len(inner)
    if not isinstance(value, list | tuple) or len(value) != (length or len(value)) or not value:
      raise InputError(f'{where} is {_short(value)}, a list of numbers is needed')
    found = tuple(_typed(item, inner[0], where) for item in value)
    if 0 in found:
      raise InputError(f'{where} is {_short(value)}, sizes must be above 0: copy it again')
    return found
  if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
    with contextlib.suppress(OverflowError):
      return float(value)
  if hint is int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
      return value
  elif hint is not float and isinstance(value, hint):
    return value
  raise InputError(f'{where} is {_short(value)}, which is no {_KINDS[hint]}: copy it again')


_KINDS = {int: 'size', float: 'number', str: 'text', bool: 'switch'}


def _same(found: Any, wanted: Any, lists: int = 2) -> bool:
  """Whether a value is the wanted one, or up to so many lists of lists of nothing else."""
  if isinstance(found, list | tuple) and not isinstance(wanted, tuple):
    return bool(found and lists) and all(_same(item, wanted, lists - 1) for item in found)
  if isinstance(wanted, tuple):
    return isinstance(found, list | tuple) and tuple(found) == wanted
  # JSON's null, texts and numbers are compared by value; 1 is true.
  return found is None if wanted is None else found == wanted


def _is_off(value: Any) -> bool:
  return value is None or value is False or value in ('', [], {})


def _short(value: Any) -> str:
  text = repr(tuple(value) if isinstance(value, list) else value)
  return text if len(text) <= 100 else f'{text[:100]}...'
