"""The reference of the configuration: every key with its type, default and meaning.

Keys of `model`, `process` and `lora` are described by the dataclasses that they become. All others
are described by the comments in `configs/`, which are read from the source.
"""

import ast
import dataclasses
import functools
import io
import re
import tokenize
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import griffe
from ml_collections import ConfigDict

from docs.generate.text import cell, code_cell
from ttm_jax.codecs.tae import TAEConfig
from ttm_jax.nn.lora import LoRAConfig
from ttm_jax.presets import PRESETS
from ttm_jax.settings import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'

# The configuration whose values stand for those of each kind.
TYPICAL = {'dit': 'stage2_dit', 'unet': 'stage2_unet', 'wan': 'stage2_wan', 'codec': 'codec_tae'}
_LONGEST = 60  # Characters of a default in the table.
TITLES = {
  'dit': 'the transformer (`dit`)',
  'unet': 'the U-Net (`unet`)',
  'wan': 'Wan (`wan`)',
  'codec': 'the autoencoder (task `codec`)',
}


@dataclass(frozen=True)
class Key:
  """A key of a configuration.

  Attributes:
    name: dotted, as in `--config.NAME=VALUE`.
    kind: its type, as in Python.
    default: its value.
    meaning: what it does.
  """

  name: str
  kind: str
  default: Any
  meaning: str


def shipped() -> list[str]:
  """Return the names of the configurations that can be trained or ablated."""
  return sorted(p.stem for p in CONFIGS.glob('*.py') if '\ndef get_config(' in p.read_text())


def flat(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yield the dotted keys and values of a nested configuration."""
  for name, value in config.items():
    if isinstance(value, ConfigDict | dict):
      yield from flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def keys(name: str) -> list[Key]:
  """Return the keys of a shipped configuration, in the order of the file.

  A key without a description has an empty meaning.

  Args:
    name: name of the configuration.
  """
  config = load_config(name)
  comments, described = _comments(), _dataclasses(config)
  found = []
  for key, value in flat(config):
    section, _, field = key.rpartition('.')
    kind, meaning = type(value).__name__, comments.get(key, '')
    if section in described:
      kinds, meanings = _fields(described[section])
      kind, meaning = kinds[field], meanings.get(field, '')
    found.append(Key(key, kind, value, meaning))
  return found


def page() -> str:
  """Return the reference page of all keys as Markdown."""
  lines = [
    '# Configuration keys',
    '',
    'Every key is a flag of `ttm_jax.train` and `ttm_jax.plan`: `--config.data.batch_size=64`.',
    'An unknown key is refused. Tuples are written as in Python: `--config.model.patch="(2, 2)"`.',
    'This page is made from `configs/` and from the dataclasses that read the sections.',
    '',
  ]
  of_kind = {kind: {k.name: k for k in keys(name)} for kind, name in TYPICAL.items()}
  denoisers = [of_kind[preset] for preset in PRESETS if preset in of_kind]
  sections = dict.fromkeys(k.rpartition('.')[0] for d in denoisers for k in d)
  for section in sorted(s for s in sections if s not in ('model', 'process')):
    lines += [f'## {section or "Top level"}', '', *_table(_merged(denoisers, section)), '']
  for section in ('model', 'process'):
    for preset in PRESETS:
      if own := _of_section(of_kind.get(preset, {}), section):
        lines += [f'## {section} of {TITLES[preset]}', '', *_table(own), '']
  shared = {name: key for kind in denoisers for name, key in kind.items()}
  codec = [k for k in of_kind['codec'].values() if k != shared.get(k.name)]
  lines += [f'## Keys of {TITLES["codec"]}', '', 'All others are as above.', '', *_table(codec), '']
  known = shared | of_kind['codec']
  student = [key for key in keys('distill_stage2_dit') if key.name not in known]
  lines += ['## Keys of a student', '', 'See [distillation](../distillation.md).', '']
  lines += [*_table(student), '']
  ablations = [name for name in shipped() if name.startswith('ablate_')]
  ablation = {key.name: key for name in reversed(ablations) for key in keys(name)}
  lines += ['## Keys of an ablation', '', 'For `ttm_jax.ablate`.', '']
  lines += [*_table(list(ablation.values())), '']
  return '\n'.join(lines)


def configurations() -> str:
  """Return the page of all shipped configurations as Markdown."""
  lines = [
    '# Shipped configurations',
    '',
    'Each is one file in `configs/`. Pass its name: `--config=stage2_dit`.',
    '',
  ]
  for name in shipped():
    text = ast.get_docstring(ast.parse((CONFIGS / f'{name}.py').read_text())) or ''
    lines += [f'## {name}', '', text.replace('\\\\\n', '\\\n'), '', '??? note "All values"', '']
    lines += ['    | key | value |', '    |---|---|']
    for key, value in flat(load_config(name)):
      lines.append(f'    | `{key}` | {code_cell(repr(value))} |')
    lines.append('')
  return '\n'.join(lines)


def _merged(kinds: list[dict[str, Key]], section: str) -> list[Key]:
  """Return the keys of a section that occur in any of several configurations, once each."""
  found: dict[str, Key] = {}
  for kind in kinds:
    for key in _of_section(kind, section):
      if key.name in ('preset', 'task'):  # The configuration is of one; there is no default.
        key = dataclasses.replace(key, default='')
      found.setdefault(key.name, key)
  return list(found.values())


def _of_section(kind: dict[str, Key], section: str) -> list[Key]:
  return [key for key in kind.values() if key.name.rpartition('.')[0] == section]


def _table(found: list[Key]) -> list[str]:
  lines = ['| key | type | default | meaning |', '|---|---|---|---|']
  for key in found:
    default = code_cell(repr(key.default)) if key.default not in ('', ()) else ''
    if len(default) > _LONGEST:
      default = 'see the file'
    meaning = cell(key.meaning[:1].upper() + key.meaning[1:])
    lines.append(f'| `{key.name}` | {code_cell(key.kind)} | {default} | {meaning} |')
  return lines


def _dataclasses(config: ConfigDict) -> dict[str, type]:
  """Return the sections of a configuration that become dataclasses."""
  if config.get('task') == 'codec':
    return {'model': TAEConfig}
  if 'preset' not in config:
    return {}
  preset = PRESETS[config.preset]
  return {'model': preset.config, 'process': preset.process, 'lora': LoRAConfig}


@functools.cache
def _fields(kind: type) -> tuple[dict[str, str], dict[str, str]]:
  """Return the types and the descriptions of the fields of a dataclass, those of its bases too."""
  hints = typing.get_type_hints(kind)
  kinds = {
    field.name: getattr(hints[field.name], '__name__', '')
    if not typing.get_args(hints[field.name])
    else str(hints[field.name])
    for field in dataclasses.fields(kind)
  }
  meanings: dict[str, str] = {}
  for base in reversed(kind.__mro__):
    if dataclasses.is_dataclass(base):
      meanings |= _attributes(base.__doc__ or '')
  return kinds, meanings


def _attributes(docstring: str) -> dict[str, str]:
  """Return the descriptions in the section `Attributes:` of a docstring."""
  sections = griffe.Docstring(docstring).parse('google', warn_unknown_params=False, warnings=False)
  found = {}
  for section in sections:
    if section.kind is griffe.DocstringSectionKind.attributes:
      for item in section.value:
        for name in item.name.split(', '):
          found[name] = ' '.join(item.description.split())
  return found


@functools.cache
def _comments() -> dict[str, str]:
  """Return the comments at the keys of all files in `configs/`, by dotted key."""
  found: dict[str, str] = {}
  for path in [CONFIGS / 'base.py', *sorted(CONFIGS.glob('*.py'))]:
    source = path.read_text()
    lines = {t.start[0]: t for t in tokenize.generate_tokens(io.StringIO(source).readline)
             if t.type == tokenize.COMMENT}  # fmt: skip
    for key, first, last in _assigned(ast.parse(source)):
      comment = _comment_at(lines, first, last)
      if comment and key not in found:
        found[key] = comment
  return found


def _comment_at(lines: dict[int, tokenize.TokenInfo], first: int, last: int) -> str:
  """Return the comment behind an expression, or that on the lines above it."""
  if last in lines and not lines[last].line.lstrip().startswith('#'):
    return lines[last].string[1:].strip()
  if first in lines and not lines[first].line.lstrip().startswith('#'):
    return lines[first].string[1:].strip()
  above = []
  number = first - 1
  while number in lines and lines[number].line.lstrip().startswith('#'):
    above.insert(0, lines[number].string[1:].strip())
    number -= 1
  return ' '.join(above)


def _assigned(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
  """Yield the dotted keys that a configuration file sets, with their first and last lines."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
      key = _dotted(node.targets[0])
      last = node.end_lineno or node.lineno
      if key is not None:
        yield key, node.lineno, last
        if isinstance(node.value, ast.Call) and node.value.args:
          yield from _items(node.value.args[0], key)
    elif (
      isinstance(node, ast.Call)
      and isinstance(node.func, ast.Attribute)
      and node.func.attr == 'update'
      and node.args
      and (key := _dotted(node.func.value)) is not None
    ):
      yield from _items(node.args[0], key)


def _items(value: ast.expr, section: str) -> Iterator[tuple[str, int, int]]:
  if isinstance(value, ast.Dict):
    for key, item in zip(value.keys, value.values, strict=True):
      if isinstance(key, ast.Constant):
        yield f'{section}.{key.value}', key.lineno, item.end_lineno or item.lineno


def _dotted(node: ast.expr) -> str | None:
  """Return the key of `config.a.b`, or None for anything else."""
  text = ast.unparse(node)
  matched = re.fullmatch(r'config\.([\w.]+)', text)
  return matched[1] if matched else None
