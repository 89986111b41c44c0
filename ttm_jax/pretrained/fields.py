"""Validate every field of the `config.json` of pretrained weights.

Some configuration fields change what a model computes but not the shapes of its tensors. A loader
that ignored such a field would load the weights and compute a different function. Each loader
therefore has a table with one rule for every field of the model class:

    Read()         the loader reads the field into its own configuration
    Only(value)    this package supports only that value and rejects any other
    Free(reason)   the field does not affect the computation here, for the stated reason

A field without a rule is rejected, unless its value is null, false or empty.
"""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError, nearest

# Fields that may be 0, and fields that count layers.
_OPTIONAL = ('masked_blocks', 'visual_channels', 'temporal_downsamples')
# Fields that exports of earlier versions lack; the default of the dataclass is theirs.
_LATER = ('guidance_inputs', 'linear_path')
_COUNTS = ('layers', 'units', 'res_blocks', 'layers_per_block', 'masked_blocks')

TENSORS = object()  # Default of a field whose value, if absent, follows from the tensors.
_LARGEST = 2**24  # Upper limit of any integer in a configuration.


@dataclasses.dataclass(frozen=True)
class Read:
  """A field that the loader reads into its own configuration."""


@dataclasses.dataclass(frozen=True)
class Only:
  """A field with one supported value.

  Attributes:
    value: the supported value. A list whose items all equal it is accepted too.
    default: the value that the original library uses if the field is absent, or TENSORS.
    also: other values with the same meaning.
  """

  value: Any
  default: Any = TENSORS
  also: tuple[Any, ...] = ()

  def allows(self, found: Any) -> bool:
    """Return whether a value of the field is supported."""
    return any(_same(found, value) for value in (self.value, *self.also))


@dataclasses.dataclass(frozen=True)
class Free:
  """A field that does not affect the computation.

  Attributes:
    reason: why it has no effect.
  """

  reason: str


Rule = Read | Only | Free
Table = Mapping[str, Rule]

# A boolean field that must be false or null, and a field that must be null.
OFF = Only(False, False, also=(None,))
NONE = Only(None, None)


def check(folder: Path, config: Mapping[str, Any], table: Table) -> None:
  """Check a configuration against a table of rules.

  Args:
    folder: folder of the model, for the error message.
    config: contents of its `config.json`. Names that begin with `_` are metadata of the library and
      not checked.
    table: rules by field name.

  Raises:
    InputError: a field is unknown or has an unsupported value. The message names the first one.
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
  """Build a dataclass from fields of a `config.json`.

  Fields of the file that are not in `names` are ignored; `check` handles those.

  Args:
    kind: the dataclass; its annotations are int, float, str, bool or a tuple of one of them.
    folder: folder of the model, for the error message.
    config: contents of its `config.json`.
    names: field of `kind` -> field of the file.
    layers: upper limit of the number of layers; pass the number of tensors.

  Returns:
    An instance of `kind`.

  Raises:
    InputError: a field is missing, or a value is of the wrong type, out of range, or inconsistent
      with the others.
  """
  hints = typing.get_type_hints(kind)
  found = {}
  for ours, theirs in names.items():
    if theirs not in config:
      if ours in _LATER:
        continue
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
    raise InputError(f'{folder}/config.json is not a configuration of it: {error}') from error


def _typed(value: Any, hint: Any, where: str) -> Any:
  """Return a JSON value as the annotated type, with lists as tuples.

  Raises:
    InputError: the value is of another type, or a size is out of range.
  """
  if isinstance(hint, types.GenericAlias):
    inner = typing.get_args(hint)
    length = None if inner[-1] is ... else len(inner)
    if not isinstance(value, list | tuple) or len(value) != (length or len(value)) or not value:
      raise InputError(f'{where} is {_short(value)}, a list of numbers is needed')
    found = tuple(_typed(item, inner[0], where) for item in value)
    if inner[0] is int and 0 in found:
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
  """Return whether a value is the wanted one, or a list of it nested up to `lists` levels deep."""
  if isinstance(found, list | tuple) and not isinstance(wanted, tuple):
    return bool(found and lists) and all(_same(item, wanted, lists - 1) for item in found)
  if isinstance(wanted, tuple):
    return isinstance(found, list | tuple) and tuple(found) == wanted
  # Other JSON values are compared with ==, so 1 equals true.
  return found is None if wanted is None else found == wanted


def _is_off(value: Any) -> bool:
  return value is None or value is False or value in ('', [], {})


def _short(value: Any) -> str:
  text = repr(tuple(value) if isinstance(value, list) else value)
  return text if len(text) <= 100 else f'{text[:100]}...'
