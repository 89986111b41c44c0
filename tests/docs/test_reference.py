"""The reference of the documentation: everything public has a description."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.generate import api, commands, settings
from tests.helpers import tiny

ROOT = Path(__file__).parents[2]
FOLDERS = ('ttm_jax', 'data_tools', 'launch', 'benchmarks', 'configs', 'docs')
# What a command or a configuration does stands in the docstring of its module.
OF_MODULE = {'main', 'cli', 'get_config'}


def sources() -> dict[str, ast.Module]:
  """Return all modules by their path."""
  paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob('*.py'))]
  return {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for path in paths
    if 'ttm_jax/configs' not in str(path)  # A link to `configs`.
  }


def classes(tree: ast.AST) -> Iterator[ast.ClassDef]:
  return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def described(node: ast.ClassDef) -> set[str]:
  """Return the methods of a class that have a docstring."""
  methods = (item for item in node.body if isinstance(item, ast.FunctionDef))
  return {method.name for method in methods if ast.get_docstring(method)}


def undocumented(trees: dict[str, ast.Module]) -> list[str]:
  """Return the public functions, classes and methods without a docstring.

  A method may have that of the method of a base class or of a protocol that it implements.
  """
  every = [node for tree in trees.values() for node in classes(tree)]
  by_name = {node.name: node for node in every}

  def inherited_by(node: ast.ClassDef) -> set[str]:
    bases = [by_name.get(ast.unparse(base).split('.')[-1]) for base in node.bases]
    # A class that extends one of its own name extends that of another library.
    ours = [base for base in bases if base and base.name != node.name]
    return set().union(*(described(base) | inherited_by(base) for base in ours))

  protocols = {
    name
    for node in every
    if any(ast.unparse(base).endswith('Protocol') for base in node.bases)
    for name in described(node)
  }
  found = []

  def look(path: str, body: list[ast.stmt], owner: ast.ClassDef | None) -> None:
    for node in body:
      if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith('_'):
        continue
      inherited = protocols | inherited_by(owner) if owner else OF_MODULE
      if not ast.get_docstring(node) and node.name not in inherited:
        found.append(f'{path}:{node.lineno} {node.name}')
      if isinstance(node, ast.ClassDef):
        look(path, node.body, node)

  for path, tree in trees.items():
    if not ast.get_docstring(tree) and tree.body:
      found.append(path)
    look(path, tree.body, None)
  return found


def test_what_counts_as_undocumented():
  source = (
    'class A:\n  "."\n  def f(self): ...\nclass B(A):\n  "."\n  def f(self): ...\ndef g(): ...'
  )
  assert undocumented({'a.py': ast.parse(f'"."\n{source}')}) == ['a.py:4 f', 'a.py:7 f', 'a.py:8 g']
  told = source.replace('def f(self): ...', 'def f(self):\n    "."', 1)
  assert undocumented({'a.py': ast.parse(f'"."\n{told}')}) == ['a.py:9 g']


def test_everything_public_has_a_description():
  assert undocumented(sources()) == []


def test_pages_of_the_python_interface_name_modules_that_exist():
  named = [module for title in api.PAGES for module in api.modules(title)]
  assert len(named) == len(set(named)) > 50
  assert [m for m in named if not (ROOT / f'{m.replace(".", "/")}.py').is_file()] == []


@pytest.mark.parametrize('name', settings.shipped())
def test_every_key_has_a_type_and_a_meaning(name):
  keys = settings.keys(name)
  if name in tiny.SHIPPED:
    agreed = json.loads((ROOT / 'tests' / 'golden' / f'{name}.json').read_text())
    assert {key.name for key in keys} == dict(settings.flat(agreed)).keys()
  assert [key.name for key in keys if len(key.meaning) < 5 or not key.kind] == []


def test_the_page_has_every_key():
  page = settings.page()
  for name in settings.shipped():
    assert [key.name for key in settings.keys(name) if f'| `{key.name}` |' not in page] == []


def test_every_flag_has_a_meaning():
  assert set(commands.scripts()) <= set(commands.modules())
  missing = [
    f'{module} {flag.names[0]}'
    for module in commands.modules()
    for flags in commands.read(module).flags.values()
    for flag in flags
    if not flag.meaning
  ]
  assert missing == []


def test_flags_are_those_of_the_command():
  (flags,) = commands.read('ttm_jax.generate').flags.values()
  found = {flag.names[0]: flag for flag in flags}
  assert found['--stage2'].required and not found['--stage1'].required
  assert (found['--frames'].value, found['--stage2'].meaning) == (
    'integer',
    'run of the motion-to-video stage',
  )
  (flags,) = commands.read('ttm_jax.train').flags.values()
  names = {'--config', '--workdir', '--profile', '--compilation_cache'}
  assert names == {flag.names[0] for flag in flags}
  assert [flag.names[0] for flag in flags if flag.required] == ['--config']
  assert set(commands.read('data_tools.vbench').flags) == {'clips', 'names'}
  assert str(ROOT) not in commands.page()
