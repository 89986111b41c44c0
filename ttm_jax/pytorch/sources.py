"""The source code that an exported folder carries, as flat Python files.

It consists of the modules of this package and the other `ttm_jax` modules that they import: label
maps, errors, image and mask reading, and others. None of them needs JAX. An exported folder has no
packages, so `from ttm_jax.data.x import y` is rewritten to `from .x import y`.
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
    imported = [_file_of(name) for _, name in _OF_OURS.findall(path.read_text())]
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


def _flat(text: str) -> str:
  return _OF_OURS.sub(lambda found: f'{found[1]}from .{found[2].rsplit(".", 1)[1]} import ', text)


def _needed(text: str, texts: dict[str, str]) -> str:
  """Return the string that names the indirect imports of a module, or '' if it has none."""
  named = set(_NEIGHBOR.findall(text))
  known, new = set(named), set(named)
  while new:
    new = {n for name in new for n in _NEIGHBOR.findall(texts[name])} - known
    known |= new
  lines = [f'from .{name} import ...' for name in sorted(known - named)]
  return _NEEDED.format('\n'.join(lines)) if lines else ''
