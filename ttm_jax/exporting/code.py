"""Write the Python files of an exported folder so that diffusers finds the classes in them.

diffusers loads `pipeline.py` and copies the files that it imports relatively, but only from the
same folder. All modules are therefore in one flat folder, with a name prefix to avoid clashes with
other pipelines. diffusers looks for the class of a component in a file of the component's folder.
That file is one import from the module that `pipeline.py` has already loaded.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import ttm_jax
from ttm_jax.pytorch.sources import sources

PREFIX = 'ttm_'
WEB = 'web'  # Folder of the files of the studio's page, beside its modules.
STUDIO = 'ttm_jax.studio.exported_app'
PACKAGES = (
  *('torch', 'diffusers', 'transformers', 'accelerate', 'huggingface_hub', 'numpy', 'pillow'),
  *('gradio', 'av', 'pycocotools'),
)
"""What the studio of an exported folder imports, as packages of the index."""

_APP = f'''"""The studio of this model: see, propose, edit and render motion in the browser.

    pip install -r requirements.txt
    python app.py

Then open the address that is printed. `python app.py --help` lists the options.
"""

import sys
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
# The modules of this folder import each other as those of a package.
package = types.ModuleType('ttm')
package.__path__ = [str(HERE)]
sys.modules['ttm'] = package

from ttm.{PREFIX}exported_app import cli  # noqa: E402

if __name__ == '__main__':
  cli(str(HERE))
'''
MODULES = 'diffusers_modules.local'  # Package under which diffusers imports the code of a folder.

_RELATIVE = re.compile(r'^(\s*)from \.(\w+) import ', re.MULTILINE)
_MODULE = re.compile(r'^(\s*)from \. import (\w+)(?: as (\w+))?$', re.MULTILINE)


def write_code(folder: Path, classes: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
  """Write the modules, `pipeline.py`, and a pointer file for each component.

  A pointer file imports the class of the component.

  Args:
    folder: the exported folder.
    classes: component -> (dotted module name, class name).

  Returns:
    Component -> [name of the pointer file, class name], as in `model_index.json`.
  """
  texts = _write_modules(folder, [module for module, _ in classes.values()])
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


def write_studio(folder: Path, classes: Mapping[str, tuple[str, str]]) -> None:
  """Write the studio: its modules, the files of its page, `app.py` and `requirements.txt`.

  Args:
    folder: the exported folder, after `write_code`.
    classes: as in `write_code`.
  """
  _write_modules(folder, [*(module for module, _ in classes.values()), STUDIO])
  shutil.copytree(Path(ttm_jax.__file__).parent / 'studio' / WEB, folder / WEB)
  (folder / 'app.py').write_text(_APP)
  (folder / 'requirements.txt').write_text('\n'.join(PACKAGES) + '\n')


def _write_modules(folder: Path, modules: list[str]) -> dict[str, str]:
  """Write modules and what they import as flat files; return their original texts by name."""
  texts = {name.removesuffix('.py'): text for name, text in sources(modules).items()}
  for name, text in texts.items():
    renamed = _RELATIVE.sub(rf'\1from .{PREFIX}\2 import ', text)
    renamed = _MODULE.sub(_import_of_module, renamed)
    (folder / f'{PREFIX}{name}.py').write_text(renamed)
  return texts


def _import_of_module(found: re.Match) -> str:
  return f'{found[1]}from . import {PREFIX}{found[2]} as {found[3] or found[2]}'
