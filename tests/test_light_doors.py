"""Front doors answer at once: help and wrong flags import none of the heavy libraries."""

import ast
import json
import os
import subprocess
import sys

import pytest

from tests.helpers.cli import ROOT

# What takes milliseconds to import, besides the standard library. All others, such as JAX, Flax,
# Orbax, TensorFlow Datasets, PyTorch and matplotlib, are imported by what a command does.
LIGHT = {'PIL', 'absl', 'av', 'ml_collections', 'ml_dtypes', 'numpy', 'safetensors', 'yaml'}
LIGHT |= {'data_tools', 'ttm_jax'}
LIGHT |= {'config_config', 'cython_runtime', 'defusedxml'}  # Parts of these.

DOORS = sorted(
  f'{folder.parent.name}.{path.stem}'
  for folder in (ROOT / 'ttm_jax' / 'commands', ROOT / 'data_tools' / 'commands')
  for path in folder.glob('[!_]*.py')
)
# These have no module of their own in `commands`.
DOORS += ['ttm_jax.plan', 'ttm_jax.pytorch.generate', 'ttm_jax.studio']

SHOW = """
import json, runpy, sys
before = {*sys.modules}
sys.argv = [sys.argv[0], *sys.argv[1:]]
door, sys.argv[1:] = sys.argv[1], sys.argv[2:]
try:
  runpy.run_module(door, run_name='__main__', alter_sys=True)
except SystemExit as end:
  code = end.code
new = {name.partition('.')[0] for name in {*sys.modules} - before}
print('\\n' + json.dumps([code, sorted(new - {*sys.stdlib_module_names})]))
"""


def imported(door, *arguments):
  """Return the exit code of a door, what it printed, and the packages that it imported."""
  command = [sys.executable, '-c', SHOW, door, *arguments]
  ended = subprocess.run(
    command, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True
  )
  assert ended.stdout, ended.stderr
  *said, last = ended.stdout.splitlines()
  code, names = json.loads(last)
  return code, '\n'.join(said) + ended.stderr, {n for n in names if not n.startswith('_')}


def test_all_doors_are_here():
  named = (ROOT / 'pyproject.toml').read_text().partition('[project.scripts]')[2].split('[')[0]
  scripts = {line.split('"')[1].partition(':')[0] for line in named.splitlines() if '"' in line}
  assert {script.removesuffix('.__main__') for script in scripts} <= {*DOORS}


@pytest.mark.parametrize('door', DOORS)
def test_help_is_light(door):
  code, said, names = imported(door, '--help')
  path = ROOT / door.replace('.', '/')
  file = path / '__main__.py' if path.is_dir() else path.with_suffix('.py')
  doc = ast.get_docstring(ast.parse(file.read_text()))
  # absl exits with code 1 after help.
  assert code in (0, 1, None) and doc.splitlines()[0] in said
  assert not names - LIGHT


@pytest.mark.parametrize('door', DOORS)
def test_a_wrong_flag_is_told_at_once(door):
  code, said, names = imported(door, '--no_such_flag=1')
  assert code and 'Traceback' not in said
  assert not names - LIGHT


def test_help_of_training_explains_the_configuration():
  _, said, names = imported('ttm_jax.train', '--config=demo_stage1', '--help')
  assert 'configuration file, see configs/' in said
  assert not names - LIGHT


def test_choices_of_flags_are_those_of_the_package():
  from ttm_jax.inference import sampling_flags
  from ttm_jax.preset_names import DEFAULT, NAMES
  from ttm_jax.presets import PRESETS
  from ttm_jax.processes import flow_matching, zero_snr

  ours = [n for n, preset in PRESETS.items() if preset.config.__module__.startswith('ttm_jax.')]
  assert list(NAMES) == ours and DEFAULT in NAMES
  assert all(PRESETS[name].demo_configs for name in NAMES)
  assert {*sampling_flags.SOLVERS} == {*flow_matching.SOLVERS, *zero_snr.SOLVERS}


def test_the_package_itself_imports_nothing():
  command = [sys.executable, '-c', 'import sys, ttm_jax; print("jax" in sys.modules)']
  found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert found.stdout.strip() == 'False'
