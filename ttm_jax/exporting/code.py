"""Write the Python files of an exported folder so that diffusers finds the classes in them.

diffusers loads `pipeline.py` and copies the files that it imports relatively, but only from the
same folder. All modules are therefore in one flat folder, with a name prefix to avoid clashes with
other pipelines. diffusers looks for the class of a component in a file of the component's folder.
That file is one import from the module that `pipeline.py` has already loaded.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from ttm_jax.pytorch.sources import sources

PREFIX = 'ttm_'
MODULES = 'diffusers_modules.local'  # Package under which diffusers imports the code of a folder.

_RELATIVE = re.compile(r'^(\s*)from \.(\w+) import ', re.MULTILINE)


def write_code(folder: Path, classes: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
  """Write the modules, `pipeline.py`, and a pointer file for each component.

  A pointer file imports the class of the component.

  Args:
    folder: the exported folder.
    classes: component -> (dotted module name, class name).

  Returns:
    Component -> [name of the pointer file, class name], as in `model_index.json`.
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
