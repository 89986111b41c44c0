"""Load configuration files as ConfigDict, apply flags, and convert sections to dataclasses."""

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict

from ttm_jax.errors import InputError, nearest

T = TypeVar('T')

# In the source tree a symbolic link to the folder `configs`; in a wheel a folder.
_SHIPPED = Path(__file__).parent / 'configs'


def from_config(kind: type[T], section: ConfigDict, name: str) -> T:
  """Return a section of a configuration as a dataclass.

  Args:
    kind: The dataclass.
    section: The section; lists become tuples.
    name: Name of the section, for error messages.

  Raises:
    InputError: If a key is unknown, or the dataclass rejects a value.
  """
  known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
  values = section.to_dict()
  for key in values:
    if key not in known:
      raise InputError(f'config.{name}.{key} is unknown{nearest(key, known)}')
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
  try:
    return kind(**values)
  except (TypeError, ValueError) as error:
    raise InputError(f'config.{name}: {error}') from error


def config_file(name: str) -> Path:
  """Return the file of a configuration.

  Args:
    name: A path, or the name of a shipped configuration such as `stage1_dit`.

  Raises:
    InputError: If there is no such file and no shipped configuration of that name.
  """
  path = Path(name)
  if path.is_file():
    return path
  shipped = {file.stem: file for file in sorted(_SHIPPED.glob('*.py')) if _has_get_config(file)}
  if name in shipped:
    return shipped[name]
  if path.suffix or len(path.parts) > 1:
    raise InputError(f'config file {name} does not exist')
  raise InputError(
    f'there is no config file {name} and no shipped configuration of that name'
    f'{nearest(name, shipped)}: {", ".join(shipped)}'
  )


def load_config(name: str) -> ConfigDict:
  """Return a configuration by its path or name, without overrides.

  Raises:
    InputError: If the configuration does not exist or has no `get_config()`.
  """
  path = config_file(name)
  spec = importlib.util.spec_from_file_location(f'_config_{path.stem}', path)
  if spec is None or spec.loader is None:
    raise InputError(f'{path} is not a Python file: a configuration ends in .py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise InputError(f'{path} is not a configuration: it has no get_config()')
  return module.get_config()


def _has_get_config(file: Path) -> bool:
  return '\ndef get_config(' in file.read_text()


def parse_flags(argv: list[str]) -> list[str]:
  """Parse absl flags including --config, and raise InputError for the errors of ml_collections.

  Use as `app.run(main, flags_parser=parse_flags)`.

  Args:
    argv: Program name and arguments.

  Returns:
    The program name, as the only remaining argument.

  Raises:
    InputError: If a config file or key does not exist, a value cannot be parsed, or an argument is
      not a flag.
  """
  argv, path = _with_config_path(argv)
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    raise InputError(str(error)) from error
  except AttributeError as error:
    if "'get_config'" in str(error):
      raise InputError(f'{path} is not a configuration: it has no get_config()') from error
    raise _unknown_key(error) from error
  except KeyError as error:
    raise _unknown_key(error) from error
  if len(rest) > 1:
    raise InputError(f'unexpected argument {rest[1]!r}: options are written --name=value')
  return rest


def _with_config_path(argv: list[str]) -> tuple[list[str], str]:
  """Return the arguments with --config resolved to a path, and that path ('' without --config)."""
  argv, path = list(argv), ''
  for i, argument in enumerate(argv):
    name, equals, value = argument.partition('=')
    if name not in ('-config', '--config'):
      continue
    if equals:
      path, colon, rest = value.partition(':')  # ml_collections passes `rest` to get_config().
      path = str(config_file(path))
      argv[i] = f'{name}={path}{colon}{rest}'
    elif i + 1 < len(argv):
      path, colon, rest = argv[i + 1].partition(':')
      path = str(config_file(path))
      argv[i + 1] = f'{path}{colon}{rest}'
  return argv, path


def _unknown_key(error: KeyError | AttributeError) -> InputError:
  """Return an InputError for an error of a locked ConfigDict, whose second line is a hint."""
  inner = error.args[0]
  key, *hint = str(inner.args[0] if isinstance(inner, KeyError) else inner).splitlines()
  return InputError(f'unknown config key {key}' + ''.join(f'. {line}' for line in hint))


def to_json(config: ConfigDict) -> str:
  """Return the resolved configuration as indented JSON with sorted keys."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def from_json(text: str) -> ConfigDict:
  """Return the configuration that `to_json` wrote; lists become tuples, as in the config files.

  Raises:
    ValueError: If `text` is not JSON.
  """

  def tuples(value):
    if isinstance(value, dict):
      return {k: tuples(v) for k, v in value.items()}
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value

  return ConfigDict(tuples(json.loads(text)))


def first_difference(
  a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = ''
) -> tuple[str, Any, Any] | None:
  """Return the first dotted key at which two nested mappings differ, with both values, or None.

  Keys are compared in sorted order. A missing value counts as None; a tuple equals a list of the
  same items.

  Args:
    a: First mapping.
    b: Second mapping.
    prefix: Prepended to the key.
  """
  for key in sorted({*a, *b}):
    x, y = a.get(key), b.get(key)
    if isinstance(x, Mapping) and isinstance(y, Mapping):
      found = first_difference(x, y, f'{prefix}{key}.')
      if found:
        return found
    elif _plain(x) != _plain(y):
      return f'{prefix}{key}', x, y
  return None


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value
