"""Configurations: files that make a ConfigDict, overrides by flag, sections as dataclasses."""

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

# In the tree a link to the folder `configs`, in a wheel a folder.
_SHIPPED = Path(__file__).parent / 'configs'


def from_config(kind: type[T], section: ConfigDict, name: str) -> T:
  """A section of a configuration as the dataclass it describes.

  Raises:
    InputError: for an unknown key, or a value that the dataclass refuses.
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
  """Return the file of a configuration: a path, or the name of a shipped one such as `stage1_dit`.

  Raises:
    InputError: there is no such file and no such name.
  """
  path = Path(name)
  if path.is_file():
    return path
  shipped = {file.stem: file for file in sorted(_SHIPPED.glob('*.py')) if _has_get_config(file)}
  if name in shipped:
    return shipped[name]
  raise InputError(
    f'there is no config file {name}, and no shipped configuration of that name'
    f'{nearest(path.stem, shipped)}: {", ".join(shipped)}'
  )


def load_config(name: str) -> ConfigDict:
  """Return a configuration by its path or name, without overrides.

  Raises:
    InputError: there is none, or it has no `get_config()`.
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
  """Parses absl flags with a --config; turns what ml_collections raises into one sentence.

  Use as `app.run(main, flags_parser=parse_flags)`.

  Raises:
    InputError: for a config file or key that does not exist, a value that cannot be read, or an
      argument that is no flag.
  """
  argv, path = _with_config_path(argv)
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    raise InputError(str(error)) from error
  except AttributeError as error:
    if "'get_config'" in str(error):
      raise InputError(f'{path} is no configuration: it has no get_config()') from error
    raise _unknown_key(error) from error
  except KeyError as error:
    raise _unknown_key(error) from error
  if len(rest) > 1:
    raise InputError(f'unexpected argument {rest[1]!r}: options are written --name=value')
  return rest


def _with_config_path(argv: list[str]) -> tuple[list[str], str]:
  """Return the arguments with --config as a path, and that path ('' without --config)."""
  argv, path = list(argv), ''
  for i, argument in enumerate(argv):
    name, equals, value = argument.partition('=')
    if name not in ('-config', '--config'):
      continue
    if equals:
      path, colon, rest = value.partition(':')  # ml_collections hands `rest` to get_config().
      path = str(config_file(path))
      argv[i] = f'{name}={path}{colon}{rest}'
    elif i + 1 < len(argv):
      path, colon, rest = argv[i + 1].partition(':')
      path = str(config_file(path))
      argv[i + 1] = f'{path}{colon}{rest}'
  return argv, path


def _unknown_key(error: KeyError | AttributeError) -> InputError:
  """The sentence for what a locked ConfigDict raises: the key, and on a second line a hint."""
  inner = error.args[0]
  key, *hint = str(inner.args[0] if isinstance(inner, KeyError) else inner).splitlines()
  return InputError(f'unknown config key {key}' + ''.join(f'. {line}' for line in hint))


def to_json(config: ConfigDict) -> str:
  """The fully resolved configuration, readable and stable."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def from_json(text: str) -> ConfigDict:
  """The configuration that `to_json` wrote; lists become tuples, as in the config files."""

  def tuples(value):
    if isinstance(value, dict):
      return {k: tuples(v) for k, v in value.items()}
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value

  return ConfigDict(tuples(json.loads(text)))


def first_difference(
  a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = ''
) -> tuple[str, Any, Any] | None:
  """The first key, in order, at which two nested dictionaries differ, with both values."""
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
