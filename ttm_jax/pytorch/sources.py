"""The source code that an exported folder carries, as flat Python files.

It consists of the modules of this package and the other `ttm_jax` modules that they import: label
maps, errors, image and mask reading, and others. None of them needs JAX. An exported folder has no
packages, so `from ttm_jax.data.x import y` is rewritten to `from .x import y`, and
`from ttm_jax.data import x as z` to `from . import x as z`.
"""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

# Modules to leave out: the package marker, the command (which needs the installed package), and
# this module.
NOT_CARRIED = ('__init__', 'generate', 'sources')
# Included for users of the folder, though no module imports it.
ALSO_CARRIED = ('ttm_jax.trajectory_edits',)

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_OF_OURS = re.compile(r'^( *)from (ttm_jax(?:\.\w+)+) import ', re.MULTILINE)
_OF_PACKAGE = re.compile(r'^( *)from (ttm_jax(?:\.\w+)*) import (\w[\w, ]*)$', re.MULTILINE)
_NEIGHBOR = re.compile(r'^ *from \.(\w+) import ', re.MULTILINE)

_NEEDED = '''
"""diffusers copies a module's direct imports only. The imports of these, in turn:

{}
"""
'''


def sources(modules: Iterable[str] = ()) -> dict[str, str]:
  """Return the source of each module by file name, such as `pipeline.py`.

  diffusers copies only the modules that a file imports directly. So each file also names its
  indirect imports, in a string at its end.

  Args:
    modules: dotted names of further modules, such as that of a network of another package.

  Raises:
    ValueError: if two modules of different packages have the same file name, or a module does not
      exist.
  """
  paths: dict[str, Path] = {}
  queue = [path for path in sorted(_HERE.glob('*.py')) if path.stem not in NOT_CARRIED]
  queue += map(_file_of, (*ALSO_CARRIED, *modules))
  while queue:
    path = queue.pop(0)
    if paths.setdefault(path.stem, path) != path:
      raise ValueError(f'{path} and {paths[path.stem]} would be one file of an exported folder')
    text = path.read_text()
    imported = [_file_of(name) for found in _OF_PACKAGE.finditer(text) for name in _modules(found)]
    imported += [_file_of(name) for _, name in _OF_OURS.findall(_by_module(text))]
    queue += [p for p in imported if p not in paths.values()]
  texts = {stem: _flat(path.read_text()) for stem, path in sorted(paths.items())}
  return {f'{stem}.py': text + _needed(text, texts) for stem, text in texts.items()}


def _file_of(module: str) -> Path:
  if module.startswith('ttm_jax.'):
    return _ROOT.joinpath(*module.split('.')).with_suffix('.py')
  spec = importlib.util.find_spec(module)
  if spec is None or spec.origin is None:
    raise ValueError(f'there is no module {module}')
  return Path(spec.origin)


def _modules(found: re.Match) -> list[str]:
  """Return the modules that a match of `_OF_PACKAGE` imports; none if it is not of a package."""
  if not _ROOT.joinpath(*found[2].split('.')).is_dir():
    return []
  return [f'{found[2]}.{part.split()[0]}' for part in found[3].split(',')]


def _by_module(text: str) -> str:
  """Rewrite imports of modules from their package to one line per module, `from . import x`."""

  def lines(found: re.Match) -> str:
    if not _modules(found):
      return found[0]
    return '\n'.join(f'{found[1]}from . import {part.strip()}' for part in found[3].split(','))

  return _OF_PACKAGE.sub(lines, text)


def _flat(text: str) -> str:
  neighbor = r'\1from .{} import '
  return _OF_OURS.sub(
    lambda found: found.expand(neighbor.format(found[2].rsplit('.', 1)[1])), _by_module(text)
  )


def _needed(text: str, texts: dict[str, str]) -> str:
  """Return the string that names the indirect imports of a module, or '' if it has none."""
  named = set(_NEIGHBOR.findall(text))
  known, new = set(named), set(named)
  while new:
    new = {n for name in new for n in _NEIGHBOR.findall(texts[name])} - known
    known |= new
  lines = [f'from .{name} import ...' for name in sorted(known - named)]
  return _NEEDED.format('\n'.join(lines)) if lines else ''
