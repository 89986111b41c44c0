"""Places that import, evaluate or execute by name: exactly those listed in SECURITY.md.

A new place fails here. Before you add it to the table, find out who decides the name, and what a
malicious file could make it do. Then describe that in SECURITY.md.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ('ttm_jax', 'data_tools', 'configs', 'launch', 'benchmarks', 'docs')

# Modules to review at import: they may execute what they read or are given.
MODULES = {
  *('pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve', 'jsonpickle'),
  *('importlib', 'runpy', 'pkgutil', 'zipimport', 'pydoc'),
  *('subprocess', 'ctypes', 'cffi', 'pty', 'pexpect'),
  *('yaml', 'hydra', 'omegaconf', 'jinja2', 'config_flags', 'xml', 'xmlrpc'),
}
# Functions that run, import or unpickle their arguments, on any object.
CALLS = {
  *('eval', 'exec', 'compile', '__import__', 'import_module', 'exec_module', 'load_module'),
  *('system', 'popen', 'execv', 'execve', 'execvp', 'execvpe', 'spawnv', 'spawnl', 'fork_exec'),
  *('instantiate', 'from_pretrained', 'from_single_file', 'builder_from_directory', 'hub_load'),
  *('unsafe_load', 'full_load', 'load_source', 'run_module', 'run_path', 'get_builder_cls'),
  *('load_checkpoint', 'from_string', 'load_extension', 'get_obj_from_str', 'torch_load'),
}
# Functions of certain modules; the names are harmless elsewhere.
OF_MODULES = {
  *(('torch', 'load'), ('np', 'load'), ('numpy', 'load'), ('yaml', 'load'), ('torch', 'compile')),
  *(
    ('torch', 'hub'),
    ('torch.jit', 'load'),
    ('os', 'startfile'),
    ('tfds', 'load'),
    ('tfds', 'builder'),
  ),
}
# Safe despite the name: they compile no Python and evaluate nothing.
SAFE = {('re', 'compile'), ('lowered', 'compile')}

KNOWN = {
  'benchmarks/data.py': {'subprocess'},
  'benchmarks/export.py': {'from_pretrained', 'subprocess'},
  'benchmarks/load_weights.py': {'subprocess'},
  'benchmarks/object_attention.py': {'getattr(torch, ...)', 'torch.compile'},
  'benchmarks/scale.py': {'subprocess'},
  'benchmarks/step.py': {'config_flags'},
  'benchmarks/studio.py': {'subprocess'},
  'benchmarks/wan_step.py': {'config_flags', 'subprocess'},
  'docs/generate/commands.py': {'importlib', 'import_module'},
  'launch/local.py': {'subprocess'},
  'ttm_jax/pytorch/annotation/model_source.py': {'getattr(torch, ...)'},
  'ttm_jax/pytorch/annotation/sam2.py': {'importlib', 'import_module'},
  'ttm_jax/pytorch/annotation/sam2_config.py': {'yaml'},
  'ttm_jax/pytorch/annotation/sam2_package.py': {'hydra', 'yaml'},
  'ttm_jax/ablate.py': {'config_flags'},
  'ttm_jax/commands/__init__.py': {'subprocess'},
  'ttm_jax/commands/showcase.py': {'subprocess'},
  'ttm_jax/exporting/card.py': {'jinja2'},
  'ttm_jax/metrics/ablation.py': {'np.load'},
  'ttm_jax/metrics/rows_cache.py': {'np.load'},
  'ttm_jax/metrics/torch_calls.py': {'torch.jit.load'},
  'ttm_jax/plan.py': {'config_flags'},
  'ttm_jax/metrics/systems.py': {'from_pretrained'},
  'ttm_jax/planning/compile.py': {'importlib'},
  'ttm_jax/planning/layout.py': {'subprocess'},
  'ttm_jax/pytorch/attention.py': {'importlib', 'torch.compile'},
  'ttm_jax/pytorch/generate.py': {'from_pretrained', 'getattr(torch, ...)'},
  'ttm_jax/pytorch/loading.py': {'from_pretrained'},
  'ttm_jax/pytorch/model.py': {'from_pretrained'},
  'ttm_jax/pytorch/pretrained.py': {'from_pretrained'},
  'ttm_jax/pytorch/seeded.py': {'from_pretrained'},
  'ttm_jax/report/gallery.py': {'jinja2'},
  'ttm_jax/pytorch/sources.py': {'importlib'},
  'ttm_jax/settings.py': {'exec_module', 'importlib'},
  'ttm_jax/train.py': {'config_flags'},
}
# Calls of our own loader of an exported folder, which is listed itself.
OWN_LOADER = {
  'ttm_jax/pytorch/generate.py',
  'ttm_jax/pytorch/seeded.py',
  'ttm_jax/metrics/systems.py',
}


def found_in(source):
  """Return what a Python source imports, evaluates or executes by name."""
  found, modules = set(), set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      modules |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
      found |= {alias.name.split('.')[0] for alias in node.names} & MODULES
    elif isinstance(node, ast.ImportFrom):
      names = {(node.module or '').split('.')[0], *(alias.name for alias in node.names)}
      found |= names & MODULES
      found |= names & (CALLS - {'compile', 'system'})
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Call):
      continue
    called = node.func
    if isinstance(called, ast.Name):
      if called.id in CALLS:
        found.add(called.id)
      first = node.args[0] if node.args else None
      named = len(node.args) > 1 and not isinstance(node.args[1], ast.Constant)
      if called.id == 'getattr' and isinstance(first, ast.Name) and first.id in modules and named:
        found.add(f'getattr({first.id}, ...)')
    elif isinstance(called, ast.Attribute):
      plain = isinstance(called.value, ast.Name | ast.Attribute)
      on = ast.unparse(called.value) if plain else ''
      if (on, called.attr) in OF_MODULES:
        found.add(f'{on}.{called.attr}')
      elif called.attr in CALLS - {'compile', 'eval', 'exec'} and (on, called.attr) not in SAFE:
        found.add(called.attr)
    if any(k.arg == 'trust_remote_code' and not _is_false(k.value) for k in node.keywords):
      found.add('trust_remote_code')
    if any(k.arg in ('allow_pickle', 'shell') and not _is_false(k.value) for k in node.keywords):
      found.add('allow_pickle or shell')
    if any(k.arg == 'weights_only' and _is_false(k.value) for k in node.keywords):
      found.add('weights_only=False')
  return found


def _is_false(node):
  return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize(
  'source, found',
  [
    ('import re\nre.compile("a")\nmodel.eval()\nlowered.compile()\ndef f(): import os', set()),
    ('eval("1")', {'eval'}),
    ('def f(x):\n  exec(x)', {'exec'}),
    ('compile(x, "", "exec")', {'compile'}),
    ('__import__(x)', {'__import__'}),
    ('import importlib.util', {'importlib'}),
    ('from importlib import import_module as m', {'importlib', 'import_module'}),
    ('import cloudpickle as p', {'cloudpickle'}),
    ('import torch\ntorch.load(f)', {'torch.load'}),
    ('import torch\ntorch.jit.load(f)', {'torch.jit.load'}),
    ('import numpy as np\nnp.load(f, allow_pickle=True)', {'np.load', 'allow_pickle or shell'}),
    ('np.save(f, x, allow_pickle=False)', set()),
    ('import os\nos.system(x)\nos.popen(x)', {'system', 'popen'}),
    ('from hydra.utils import instantiate', {'hydra', 'instantiate'}),
    ('kind.from_pretrained(x, trust_remote_code=True)', {'from_pretrained', 'trust_remote_code'}),
    ('kind.from_pretrained(x, trust_remote_code=False)', {'from_pretrained'}),
    ('import diffusers\ngetattr(diffusers, name)\ngetattr(x, name)', {'getattr(diffusers, ...)'}),
    ('import diffusers\ngetattr(diffusers, "UNet")', set()),
    ('import subprocess as s\ns.run(x, shell=True)', {'subprocess', 'allow_pickle or shell'}),
    ('f(x, weights_only=False)', {'weights_only=False'}),
    ('import yaml\nyaml.load(x)', {'yaml', 'yaml.load'}),
  ],
)
def test_what_is_found(source, found):
  assert found_in(source) == found


def test_no_place_is_new():
  found = {}
  for folder in FOLDERS:
    for path in sorted((ROOT / folder).rglob('*.py')):
      if names := found_in(path.read_text()):
        found[path.relative_to(ROOT).as_posix()] = names
  assert found == KNOWN, 'say in SECURITY.md who decides what is run there, then list it in KNOWN'


def test_shell_scripts_evaluate_nothing():
  for path in (ROOT / 'launch').glob('*.sh'):
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith('#')]
    assert not [line for line in lines if re.search(r'\beval\b|\b(ba)?sh -c\b', line)], path.name


def test_all_places_are_told():
  text = (ROOT / 'SECURITY.md').read_text()
  for path in KNOWN:
    if path not in OWN_LOADER:
      assert f'`{path}`' in text, path
      assert (ROOT / path).exists(), path
