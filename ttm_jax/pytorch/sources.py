"""The Python files that an exported folder carries."""

import pathlib
import re

_OF_OURS = re.compile(r'^from ttm_jax\.(?:\w+\.)*(\w+) import ', re.MULTILINE)
_STAND_IN = re.compile(r'^from (ttm_jax\.[\w.]+) import \*', re.MULTILINE)
_NEIGHBOUR = re.compile(r'^ *from \.(\w+) import ', re.MULTILINE)

_NEEDED = '''
"""Beside what it imports itself, this file needs its neighbours below. diffusers brings a file's
neighbours along where it finds them named like this, but not theirs in turn.

{}
"""
'''


def sources() -> dict[str, str]:
  """The text of each module by its file name, all for one flat folder.

  They are the modules of this folder but for this one. A stand-in gives way to the module it stands
  for, whose imports of ours become those of its neighbours. A module whose neighbours have
  neighbours of their own names these at its end.
  """
  here = pathlib.Path(__file__).parent
  texts = {}
  for path in sorted(here.glob('*.py')):
    text = path.read_text()
    if found := _STAND_IN.search(text):
      original = here.parents[1].joinpath(*found.group(1).split('.')).with_suffix('.py')
      text = _OF_OURS.sub(r'from .\1 import ', original.read_text())
    if path.name != pathlib.Path(__file__).name:
      texts[path.name] = text
  return {name: text + _needed(text, texts) for name, text in texts.items()}


def _needed(text: str, texts: dict[str, str]) -> str:
  """What to add to a module so that it names every module it needs."""
  named = set(_NEIGHBOUR.findall(text))
  known, new = set(named), set(named)
  while new:
    new = {n for name in new for n in _NEIGHBOUR.findall(texts[f'{name}.py'])} - known
    known |= new
  lines = [f'from .{name} import ...' for name in sorted(known - named)]
  return _NEEDED.format('\n'.join(lines)) if lines else ''
