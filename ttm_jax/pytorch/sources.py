"""The Python files that an exported folder carries."""

import pathlib
import re

_IMPORT = re.compile(r'^from (ttm_jax\.[\w.]+) import ', re.MULTILINE)


def sources() -> dict[str, str]:
  """The text of each module by its file name, all for one flat folder.

  They are the modules of this folder but for this one. A stand-in gives way to the module it stands
  for, whose imports of ours become those of its neighbours.
  """
  here = pathlib.Path(__file__).parent
  texts = {}
  for path in sorted(here.glob('*.py')):
    text = path.read_text()
    if path.stem == 'sources':
      continue
    if '# noqa: F403' in text and (found := _IMPORT.search(text)):
      original = here.parents[1].joinpath(*found.group(1).split('.')).with_suffix('.py')
      text = _IMPORT.sub(
        lambda m: f'from .{m.group(1).rpartition(".")[2]} import ', original.read_text()
      )
    texts[path.name] = text
  return texts
