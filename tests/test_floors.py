"""Who may import whom: the floors of the house."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = 'ttm_jax'


def name_of(path):
  """The dotted name of a module; that of a package stands for its __init__."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def within(name, *packages):
  return any(name == package or name.startswith(f'{package}.') for package in packages)


FILES = {name_of(path): path for path in sorted((ROOT / PACKAGE).rglob('*.py'))}


# The files of this package are copied side by side into exported folders.
FLAT = 'ttm_jax.pytorch'

# What it has in common with the rest, by modules that are no more than an import. None has JAX.
SHARED = {
  f'{FLAT}.animation': 'ttm_jax.inference.command',
  f'{FLAT}.asked': 'ttm_jax.inference.cli_args',
  f'{FLAT}.atomic': 'ttm_jax.atomic',
  f'{FLAT}.described': 'ttm_jax.inference.image_description',
  f'{FLAT}.errors': 'ttm_jax.errors',
  f'{FLAT}.images': 'ttm_jax.media.images',
  f'{FLAT}.label_images': 'ttm_jax.media.label_images',
  f'{FLAT}.outputs': 'ttm_jax.outputs',
  f'{FLAT}.position_words': 'ttm_jax.inference.position_words',
  f'{FLAT}.request': 'ttm_jax.inference.request',
  f'{FLAT}.trajectory': 'ttm_jax.trajectory',
  f'{FLAT}.trajectory_edits': 'ttm_jax.trajectory_edits',
  f'{FLAT}.untrusted': 'ttm_jax.untrusted',
  f'{FLAT}.video_io': 'ttm_jax.media.video_io',
  f'{FLAT}.windows': 'ttm_jax.codecs.windows',
  f'{FLAT}.word_ids': 'ttm_jax.text.word_ids',
}


def imports_of(source, module, known):
  """Dotted names that a module imports, anywhere in it; of `known` ones, the deepest.

  `from a import b` imports the module a.b if there is one, else a.
  """
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      if node.level:
        # diffusers finds the files that belong to a model by `from .module import name`.
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


def modules_in(*packages):
  found = [name for name in FILES if within(name, *packages)]
  assert found, packages
  return found


def test_how_imports_are_read():
  source = 'import os.path\nfrom a.b import c, d\ndef f():\n  from a import b\n'
  assert imports_of(source, 'm', {'a', 'a.b', 'a.b.c'}) == {'os.path', 'a.b', 'a.b.c'}
  assert 'ttm_jax.nn.layers' in IMPORTS['ttm_jax.models.dit.model'] and len(FILES) > 50


# What a package may import of ours besides itself and the sentences of errors.
FLOORS = {
  'ttm_jax.errors': (),
  'ttm_jax.json_file': (),
  'ttm_jax.untrusted': (),
  'ttm_jax.ops': ('ttm_jax.parallel',),
  'ttm_jax.inference.request': ('ttm_jax.media.label_images',),
  'ttm_jax.media.images': (),
  'ttm_jax.media.label_images': ('ttm_jax.media.images',),
  'ttm_jax.outputs': (),
  'ttm_jax.trajectory': ('ttm_jax.media.label_images',),
  'ttm_jax.trajectory_edits': ('ttm_jax.trajectory',),
  'ttm_jax.processes': (),
  'ttm_jax.conditioning': (),
  'ttm_jax.settings': (),
  'ttm_jax.parallel': (),
  'ttm_jax.tasks': ('ttm_jax.conditioning',),
  'ttm_jax.models': (
    'ttm_jax.ops',
    'ttm_jax.conditioning',
    'ttm_jax.text',
    'ttm_jax.parallel',
  ),
  'ttm_jax.text': (
    'ttm_jax.conditioning',
    'ttm_jax.nn.initial',
    'ttm_jax.nn.layers',
  ),
  'ttm_jax.codecs': ('ttm_jax.ops', 'ttm_jax.parallel'),
  'ttm_jax.pretrained': ('ttm_jax.codecs', 'ttm_jax.models', 'ttm_jax.text'),
  'ttm_jax.presets': (
    'ttm_jax.codecs',
    'ttm_jax.models',
    'ttm_jax.pretrained',
    'ttm_jax.processes',
    'ttm_jax.text',
  ),
  'ttm_jax.data': (
    'ttm_jax.media.images',
    'ttm_jax.media.label_images',
    'ttm_jax.codecs',
    'ttm_jax.conditioning',
    'ttm_jax.outputs',
    'ttm_jax.parallel',
    'ttm_jax.presets',
    'ttm_jax.pretrained',
    'ttm_jax.inference.request',
    'ttm_jax.tasks',
    'ttm_jax.text',
    'ttm_jax.trajectory',
    'ttm_jax.trajectory_edits',
  ),
  'ttm_jax.planning': (
    'ttm_jax.data',
    'ttm_jax.ops.rematerialization',
    'ttm_jax.parallel',
    'ttm_jax.presets',
    'ttm_jax.media.animations',
    'ttm_jax.settings',
    'ttm_jax.text',
    'ttm_jax.training',
  ),
}


@pytest.mark.parametrize('floor', FLOORS)
def test_floors(floor):
  common = ('errors', 'atomic', 'json_file', 'untrusted')
  allowed = (floor, *(f'ttm_jax.{name}' for name in common), *FLOORS[floor])
  broken = [
    f'{module} imports {other}'
    for module in modules_in(floor)
    for other in sorted(IMPORTS[module])
    if within(other, PACKAGE) and not within(other, *allowed)
  ]
  assert not broken


FRONT_DOORS = ('train', 'generate', 'evaluate', 'export', 'plan', 'demo')


def test_nothing_stands_on_a_front_door():
  doors = [f'{PACKAGE}.{door}' for door in FRONT_DOORS]
  assert not [
    f'{module} imports {other}'
    for module, others in IMPORTS.items()
    for other in others
    if within(other, *doors)
  ]


def test_only_its_front_door_plans():
  users = {
    name for name, others in IMPORTS.items() for x in others if within(x, f'{PACKAGE}.planning')
  }
  assert {name for name in users if not within(name, f'{PACKAGE}.planning')} == {f'{PACKAGE}.plan'}


def test_no_package_but_ours_is_imported_from_above():
  above = ('configs', 'data_tools', 'tests', 'benchmarks')
  assert {
    (module, other)
    for module, others in IMPORTS.items()
    for other in others
    if within(other, *above)
  } == {
    ('ttm_jax.inference.command', 'data_tools.describe'),  # Where something is to be found.
    ('ttm_jax.evaluate', 'data_tools.describe'),  # Where runs read pretrained text encoders.
    ('ttm_jax.evaluate', 'data_tools.steps.weights'),
  }


def test_a_host_without_pytorch_can_train():
  with_torch = [
    name
    for name, others in IMPORTS.items()
    if any(within(other, 'torch', 'torchvision', 'transformers', 'diffusers') for other in others)
  ]
  allowed = ('ttm_jax.pytorch', 'ttm_jax.metrics', 'ttm_jax.pretrained')
  assert not [name for name in with_torch if not within(name, *allowed)]


def test_an_exported_model_needs_no_jax():
  others = {
    f'{module} imports {other}'
    for module, others in IMPORTS.items()
    for other in others
    if within(module, 'ttm_jax.pytorch')
    and (within(other, 'jax', 'jaxlib', 'flax', 'optax', 'orbax') or within(other, PACKAGE))
    and not within(other, FLAT)
    and SHARED.get(module) != other
  }
  assert not others


def test_what_exported_models_share_is_numpy():
  light = ('ttm_jax.errors', *SHARED.values())
  for original in SHARED.values():
    heavy = {
      o.split('.')[0] for o in IMPORTS[original] if not within(o, 'data_tools.describe', *light)
    }
    assert heavy <= {*sys.stdlib_module_names, 'numpy', 'safetensors', 'PIL', 'av'}


def circle_in(graph):
  """Some circle of imports, as a list of names; empty if there is none."""
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
