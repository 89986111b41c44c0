"""The Python modules that an exported folder carries, as flat files.

They are the modules of this package and, of the rest of `ttm_jax`, the modules that these import:
label maps, errors, image and mask reading, and so on, none of which needs JAX. An exported folder
has no packages, so `from ttm_jax.data.x import y` becomes `from .x import y`.
"""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

# Not carried: the package marker, the command (it runs from an installed package), this module.
NOT_CARRIED = ('__init__', 'generate', 'sources')
# Carried for the users of the folder, though no module imports it.
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
  """Return the text of each carried module by its file name, such as `pipeline.py`.

  A module whose imports import other modules names these at its end, since diffusers copies only
  the modules that a file names.

  Args:
    modules: dotted names of modules to carry besides, such as that of a network of another package.

  Raises:
    ValueError: two modules of different packages have the same file name.
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
  """Return the lines that name the imports of a module's imports."""
  named = set(_NEIGHBOR.findall(text))
  known, new = set(named), set(named)
  while new:
    new = {n for name in new for n in _NEIGHBOR.findall(texts[name])} - known
    known |= new
  lines = [f'from .{name} import ...' for name in sorted(known - named)]
  return _NEEDED.format('\n'.join(lines)) if lines else ''
