"""The Python files of an exported folder, and how diffusers finds the classes in them.

diffusers loads `pipeline.py`, to which it copies what that file imports relatively, file by file
and only from the same folder. So all modules lie flat, each under a name that no other pipeline
has. A component's class is looked for in a file of the component's folder: a single line that
points to the module, which `pipeline.py` has brought in before.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from ttm_jax.pytorch.sources import sources

PREFIX = 'ttm_'
MODULES = 'diffusers_modules.local'  # Where diffusers imports the code of a folder to.

_RELATIVE = re.compile(r'^(\s*)from \.(\w+) import ', re.MULTILINE)


def write_code(folder: Path, classes: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
  """Writes the modules, `pipeline.py`, and the pointer of each component.

  Args:
    classes: of each component, its module (dotted name) and class.

  Returns:
    What `model_index.json` says of each component: the name of its pointer, and its class.
  """
  carried = sources(module for module, _ in classes.values())
  texts = {name.removesuffix('.py'): text for name, text in carried.items()}
  for name, text in texts.items():
    renamed = _RELATIVE.sub(rf'\1from .{PREFIX}\2 import ', text)
    (folder / f'{PREFIX}{name}.py').write_text(renamed)
  lines = [
    '"""The pipeline of this folder, for `DiffusionPipeline.from_pretrained`.',
    '',
    'All modules are named here, since diffusers copies those that this file imports, no others.',
    '"""',
    '',
    *(f'from .{PREFIX}{name} import __name__ as _{name}  # noqa: F401' for name in sorted(texts)),
    f'from .{PREFIX}pipeline import TTMPipeline',
    '',
    "__all__ = ['TTMPipeline']",
  ]
  (folder / 'pipeline.py').write_text('\n'.join(lines) + '\n')
  index = {}
  for component, (module, kind) in classes.items():
    pointer = f'{component}_class'
    (folder / component).mkdir(exist_ok=True)
    (folder / component / f'{pointer}.py').write_text(
      '"""The class of this component, which `pipeline.py` has brought in."""\n\n'
      f'from {MODULES}.{PREFIX}{module.rpartition(".")[2]} import {kind}  # noqa: F401\n'
    )
    index[component] = [pointer, kind]
  return index
