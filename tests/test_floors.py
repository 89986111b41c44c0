"""Allowed imports: each package imports its own floor and the floors below it."""

import ast
import pathlib
import sys

import pytest

from ttm_jax.pytorch.sources import NOT_CARRIED

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = 'ttm_jax'

# From bottom to top. No module imports a command.
FLOORS = (
  (
    'arguments',
    'errors',
    'guidance_inputs',
    'atomic',
    'untrusted',
    'checksums',
    'json_file',
    'json_lines',
    'preset_names',
    'outputs',
    'tensor_file',
  ),
  (
    *('settings', 'media', 'trajectory', 'trajectory_edits', 'trajectory_layers'),
    *('color_labels', 'keyframes', 'mask_sampling'),
    *('optical_flow', 'conditioning'),
    *('parallel', 'processes', 'ops'),
  ),
  ('nn', 'pretrained'),
  ('models', 'codecs', 'text'),
  ('tasks', 'presets', 'exported_folder'),
  ('data', 'scenes'),
  ('training', 'inference', 'pytorch'),
  ('metrics', 'planning', 'report', 'exporting', 'studio'),
  ('commands',),
)
FRONT_DOORS = ('train', 'generate', 'evaluate', 'ablate', 'export', 'plan', 'demo', 'showcase')

FLAT = 'ttm_jax.pytorch'  # Its modules are copied side by side into exported folders.


def name_of(path):
  """Return the dotted name of a module; that of a package stands for its __init__."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def within(name, *packages):
  return any(name == package or name.startswith(f'{package}.') for package in packages)


FILES = {name_of(path): path for path in sorted((ROOT / PACKAGE).rglob('*.py'))}


def imports_of(source, module, known):
  """Return dotted names that a module imports anywhere; of `known` ones, the deepest.

  `from a import b` imports the module a.b if there is one, else a.
  """
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      if node.level:
        # diffusers finds the files of a model by `from .module import name`.
        assert within(module, FLAT) and node.level == 1 and node.module, (
          f'{module}: relative import'
        )
        found.add(f'{FLAT}.{node.module}')
        continue
      for alias in node.names:
        deeper = f'{node.module}.{alias.name}'
        found.add(deeper if deeper in known else str(node.module))
  return found - {module}


IMPORTS = {name: imports_of(path.read_text(), name, FILES) for name, path in FILES.items()}


def closure(modules):
  """Return the modules of ours that these import, directly or not, without themselves."""
  found, new = set(), set(modules)
  while new:
    found |= new
    new = {o for m in new for o in IMPORTS[m] if o in FILES} - found
  return found - set(modules)


def modules_in(*packages):
  found = [name for name in FILES if within(name, *packages)]
  assert found, packages
  return found


def test_how_imports_are_read():
  source = 'import os.path\nfrom a.b import c, d\ndef f():\n  from a import b\n'
  assert imports_of(source, 'm', {'a', 'a.b', 'a.b.c'}) == {'os.path', 'a.b', 'a.b.c'}
  assert 'ttm_jax.nn.linear' in IMPORTS['ttm_jax.models.dit.model'] and len(FILES) > 50


def test_every_package_has_a_floor():
  packages = {name.split('.')[1] for name in FILES if '.' in name}
  listed = [name for floor in (*FLOORS, FRONT_DOORS) for name in floor]
  assert sorted(listed) == sorted(packages)


@pytest.mark.parametrize('height', range(len(FLOORS)))
def test_no_package_imports_from_above(height):
  allowed = [PACKAGE, *(f'{PACKAGE}.{name}' for floor in FLOORS[: height + 1] for name in floor)]
  above = [
    f'{module} imports {other}'
    for module in modules_in(*(f'{PACKAGE}.{name}' for name in FLOORS[height]))
    for other in sorted(IMPORTS[module])
    if within(other, PACKAGE) and other != PACKAGE and not within(other, *allowed[1:])
  ]
  assert not above


def test_no_module_imports_a_front_door():
  doors = [f'{PACKAGE}.{door}' for door in FRONT_DOORS]
  assert not [
    f'{module} imports {other}'
    for module, others in IMPORTS.items()
    for other in others
    if within(other, *doors)
  ]


def test_the_package_does_not_import_the_folders_beside_it():
  beside = ('configs', 'data_tools', 'tests', 'benchmarks')
  assert not [
    f'{module} imports {other}'
    for module, others in IMPORTS.items()
    for other in others
    if within(other, *beside)
  ]


def test_no_test_imports_another():
  files = {name_of(path): path.read_text() for path in (ROOT / 'tests').rglob('*.py')}
  assert not [
    f'{name} imports {other}'
    for name, text in files.items()
    for other in imports_of(text, name, files)
    if within(other, 'tests') and other != 'tests' and not within(other, 'tests.helpers')
  ]


def test_a_host_without_pytorch_can_train():
  with_torch = [
    name
    for name, others in IMPORTS.items()
    if any(within(other, 'torch', 'torchvision', 'transformers', 'diffusers') for other in others)
  ]
  allowed = ('ttm_jax.pytorch', 'ttm_jax.metrics', 'ttm_jax.pretrained')
  assert not [name for name in with_torch if not within(name, *allowed)]


def test_the_data_tools_leave_pytorch_to_the_package():
  for path in (ROOT / 'data_tools').rglob('*.py'):
    imported = imports_of(path.read_text(), name_of(path), FILES)
    assert not [o for o in imported if within(o, 'torch', 'torchvision', 'transformers')], path


def test_an_exported_model_needs_no_jax():
  flat = modules_in(FLAT)
  shared = closure(flat)
  assert 'ttm_jax.trajectory' in shared
  for module in (*flat, *shared):
    heavy = [o for o in IMPORTS[module] if within(o, 'jax', 'jaxlib', 'flax', 'optax', 'orbax')]
    assert not heavy, f'{module} imports {heavy}'


def test_the_studio_of_an_exported_model_needs_no_jax():
  modules = closure(['ttm_jax.studio.exported_app'])
  assert 'ttm_jax.studio.api' in modules
  for module in modules:
    heavy = [o for o in IMPORTS[module] if within(o, 'jax', 'jaxlib', 'flax', 'optax', 'orbax')]
    assert not heavy, f'{module} imports {heavy}'


def test_what_exported_models_share_needs_numpy_alone():
  light = {*sys.stdlib_module_names, 'numpy', 'safetensors', 'PIL', 'av', PACKAGE}
  carried = [name for name in modules_in(FLAT) if name.split('.')[-1] not in NOT_CARRIED]
  for module in closure(carried) - {FLAT}:
    assert {o.split('.')[0] for o in IMPORTS[module]} <= light, module


def circle_in(graph):
  """Return some import cycle as a list of names; empty if there is none."""
  done, path = set(), []

  def visit(name):
    if name in path:
      return path[path.index(name) :]
    if name in done:
      return []
    path.append(name)
    for other in sorted(graph.get(name, ())):
      if circle := visit(other):
        return circle
    done.add(path.pop())
    return []

  for name in graph:
    if circle := visit(name):
      return circle
  return []


def test_no_circles():
  assert circle_in({'a': {'b'}, 'b': {'c', 'd'}, 'c': set(), 'd': {'b'}}) == ['b', 'd']
  assert circle_in({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) == []
  assert circle_in(IMPORTS) == []
