"""The TPU compiler: which version a plan needs, and what is said without it."""

import jax
import pytest

from ttm_jax.errors import InputError
from ttm_jax.planning import compile
from ttm_jax.planning.hardware import topology

INSTALL = (
  "run `pip install --no-deps --upgrade --target .venv-aot 'libtpu==1.2.*'`, then set"
  ' PYTHONPATH=.venv-aot'
)


@pytest.mark.parametrize(
  'version, said',
  [
    (None, f'the TPU compiler (libtpu) is not installed: {INSTALL}'),
    ('1.3.0', f'libtpu is 1.3.0, but jax {jax.__version__} needs libtpu==1.2.*: {INSTALL}'),
  ],
)
def test_the_compiler_that_this_jax_needs_is_named(monkeypatch, version, said):
  """Another version writes other dumps, which cannot be read."""
  needed = ['jaxlib<=9,>=9', 'libtpu==1.2.*; extra == "tpu"']
  monkeypatch.setattr(compile.metadata, 'requires', lambda name: needed)
  monkeypatch.setattr(compile.metadata, 'version', lambda name: version)
  monkeypatch.setattr(compile.importlib.util, 'find_spec', lambda name: version)
  with pytest.raises(InputError) as error:
    compile.tpu_devices(topology('v5e:2x2'))
  assert str(error.value) == said


def test_the_requirement_is_that_of_the_installed_jax():
  assert compile.compiler_requirement().startswith('libtpu==')
