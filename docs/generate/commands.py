"""The reference of all commands: their flags, read from the parsers that the commands use."""

import argparse
import ast
import contextlib
import functools
import importlib
import itertools
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from absl import flags

from docs.generate.text import cell, code_cell

ROOT = Path(__file__).parents[2]
FOLDERS = ('ttm_jax', 'data_tools', 'launch', 'benchmarks')
# A process that `ttm_jax.plan` starts; it has no flags of its own.
INTERNAL = {'ttm_jax.planning.worker'}
_GROUPS = (
  ('ttm_jax', 'Train, generate, evaluate, export, plan'),
  ('data_tools', 'Prepare data'),
  ('launch', 'Launch'),
  ('benchmarks', 'Benchmarks'),
)


@dataclass(frozen=True)
class Flag:
  """One option or positional argument of a command.

  Attributes:
    names: its spellings, as `--out`.
    value: what it takes; empty for a switch.
    default: the default as text; empty if there is none.
    required: whether it must be given.
    meaning: the help text.
  """

  names: tuple[str, ...]
  value: str
  default: str
  required: bool
  meaning: str


@dataclass(frozen=True)
class Command:
  """A program of this repository.

  Attributes:
    module: started by `python -m MODULE`.
    script: the name that an installation gives it; empty if it has none.
    description: what it does, as Markdown.
    flags: options by the name of their subcommand; '' for a command without subcommands.
  """

  module: str
  script: str
  description: str
  flags: dict[str, tuple[Flag, ...]]


class _Parser(BaseException):
  """Carries the parser of a command out of its `main`."""


@functools.cache
def modules() -> list[str]:
  """Return the modules that can be started by `python -m`, except internal ones."""
  found = []
  for folder in FOLDERS:
    for path in sorted((ROOT / folder).rglob('*.py')):
      if _runs(path):
        parts = path.relative_to(ROOT).with_suffix('').parts
        found.append('.'.join(parts[:-1] if parts[-1] == '__main__' else parts))
  return [module for module in found if module not in INTERNAL]


def _runs(path: Path) -> bool:
  """Return whether a module does something when it is started."""
  return any(
    isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    for node in ast.parse(path.read_text()).body
  )


def scripts() -> dict[str, str]:
  """Return the names of the installed commands by module."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  return {
    place.partition(':')[0].removesuffix('.__main__'): name
    for name, place in project['scripts'].items()
  }


def read(module: str) -> Command:
  """Return a command with its flags.

  The module is imported and its `main` called up to the point where it parses arguments.

  Args:
    module: dotted name of the module.
  """
  with _no_other_flags() as others:
    if module in others:
      sys.modules.pop(module)  # Its flags are defined when it is imported.
    loaded = importlib.import_module(module)
    defined = {flag.name: flag for flag in flags.FLAGS.get_flags_for_module(module)}
    required = {flag for flag in defined if _absl_required(flag)}
    if defined and module not in others:
      sys.modules.pop(module)  # Its flags are removed below.
  if hasattr(loaded, '__path__'):  # A package is started by its module `__main__`.
    loaded = importlib.import_module(f'{module}.__main__')
  description = ast.get_docstring(ast.parse(Path(loaded.__file__ or '').read_text())) or ''
  if defined:
    own = tuple(_absl_flag(flag, flag.name in required) for flag in defined.values())
    return Command(module, scripts().get(module, ''), description, {'': own})
  parser = _parser_of(loaded)
  return Command(module, scripts().get(module, ''), description, dict(_of_parser(parser)))


@contextlib.contextmanager
def _no_other_flags() -> Iterator[Iterable[str]]:
  """Remove the flags of all commands, which share names, and put them back at the end.

  Yields:
    The modules that had flags.
  """
  kept = {
    module: found for module in modules() if (found := flags.FLAGS.get_flags_for_module(module))
  }

  def clear(names: Iterable[str]) -> None:
    for name in names:
      if name in flags.FLAGS:
        delattr(flags.FLAGS, name)

  clear(flag.name for found in kept.values() for flag in found)
  try:
    yield kept
  finally:
    for module in modules():
      clear([flag.name for flag in flags.FLAGS.get_flags_for_module(module)])
    for module, found in kept.items():
      for flag in found:
        flags.FLAGS[flag.name] = flag
        flags.FLAGS.register_flag_by_module(module, flag)


def page() -> str:
  """Return the reference page of all commands as Markdown."""
  lines = [
    '# Commands',
    '',
    'Every command runs as `python -m MODULE`; most have a short name in an installation.',
    'This page is made from the parsers of the commands.',
    '',
  ]
  for folder, title in _GROUPS:
    lines += [f'## {title}', '']
    for module in modules():
      if module.partition('.')[0] == folder:
        lines += _section(read(module))
    if folder == 'launch':
      lines += _shell_scripts()
  return '\n'.join(lines)


def _section(command: Command) -> list[str]:
  names = f'`python -m {command.module}`'
  if command.script:
    names = f'`{command.script}`, or {names}'
  lines = [f'### {command.module}', '', names, '', command.description, '']
  for name, own in command.flags.items():
    if name:
      lines += [f'**{command.module} {name}**', '']
    lines += ['| flag | value | default | meaning |', '|---|---|---|---|']
    for flag in own:
      default = 'required' if flag.required else code_cell(flag.default)
      spelled = ', '.join(f'`{spelling}`' for spelling in flag.names)
      lines.append(f'| {spelled} | {cell(flag.value)} | {default} | {cell(flag.meaning)} |')
    lines.append('')
  return lines


def _parser_of(module) -> argparse.ArgumentParser:
  """Return the parser that a command parses its arguments with."""

  def stop(self, *_, **__):
    raise _Parser(self)

  start = getattr(module, 'cli', None) or module.main
  with (
    mock.patch.object(argparse.ArgumentParser, 'parse_args', stop),
    mock.patch.object(argparse.ArgumentParser, 'parse_known_args', stop),
    mock.patch.object(sys, 'argv', [module.__name__]),
  ):
    try:
      start()
    except _Parser as found:
      return found.args[0]
  raise AssertionError(f'{module.__name__} parses no arguments')


def _of_parser(parser: argparse.ArgumentParser) -> Iterator[tuple[str, tuple[Flag, ...]]]:
  """Yield the flags of a parser, and of each of its subcommands."""
  own = []
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for name, sub in action.choices.items():
        yield name, tuple(flags for _, flags in _of_parser(sub) for flags in flags)
    elif not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
      own.append(_argparse_flag(parser, action))
  if own or not any(isinstance(a, argparse._SubParsersAction) for a in parser._actions):
    yield '', tuple(own)


def _argparse_flag(parser: argparse.ArgumentParser, action: argparse.Action) -> Flag:
  names = tuple(action.option_strings) or (str(action.metavar or action.dest),)
  if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
    value = ''
  elif action.choices:
    value = ', '.join(map(str, action.choices))
  else:
    kind = getattr(action.type, '__name__', 'text') if action.type else 'text'
    value = str(action.metavar) if isinstance(action.metavar, str) else _KINDS.get(kind, 'text')
    value += ', ...' if action.nargs in ('+', '*') or _appends(action) else ''
  default = '' if action.default in (None, False, argparse.SUPPRESS) else _plain(action.default)
  meaning = parser._get_formatter()._expand_help(action) if action.help else ''
  needed = (action.required and bool(action.option_strings)) or (
    not action.option_strings and action.nargs in (None, '+')
  )
  return Flag(names, value, default, bool(needed), ' '.join(meaning.split()))


_KINDS = {'int': 'integer', 'float': 'number', 'str': 'text', 'Path': 'path'}
_ABSL_KINDS = {'bool': '', 'string': 'text', 'int': 'integer', 'float': 'number'}


def _appends(action: argparse.Action) -> bool:
  return isinstance(action, argparse._AppendAction)


def _plain(value: object) -> str:
  """Return a default as it is written on the command line, without the place of the package."""
  if isinstance(value, list | tuple):
    return ' '.join(map(str, value))
  return 'on' if value is True else str(value).replace(f'{ROOT}/', '')


def _absl_required(name: str) -> bool:
  """Return whether a flag is marked as required, which absl only knows as a validator."""
  validators = flags.FLAGS[name].validators
  return any('must have a value other than None' in v.message for v in validators)


def _absl_flag(flag: flags.Flag, required: bool) -> Flag:
  kind = flag.flag_type()
  value = 'FILE.py' if flag.name == 'config' else _ABSL_KINDS.get(kind, 'text, ...')
  default = '' if flag.default in (None, '', False) else _plain(flag.default)
  names = (f'--{flag.name}', f'--no{flag.name}') if flag.boolean else (f'--{flag.name}',)
  return Flag(names, value, default, required, ' '.join((flag.help or '').split()))


def _shell_scripts() -> list[str]:
  """Return the comment at the head of each launch script, which is its help."""
  lines: list[str] = []
  for path in sorted((ROOT / 'launch').glob('*.sh')):
    head = itertools.takewhile(lambda line: line.startswith('#'), path.read_text().splitlines()[1:])
    said = '\n'.join(line[2:] for line in head).rstrip()
    if path.stat().st_mode & 0o100:  # The others are parts of these.
      lines += [f'### launch/{path.name}', '', '```text', said, '```', '']
  return lines
