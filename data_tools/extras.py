"""Packages of the extra `data`, which not every machine has."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from ttm_jax import errors
from ttm_jax.errors import InputError

# Packages of the extra, by the names under which they are imported.
PACKAGES = ('apache_beam', 'pycocotools', 'scipy', 'torch', 'transformers')


def needed(module: str, what: str) -> Any:
  """Import and return a module of the extra.

  Args:
    what: what needs it, for the error.

  Raises:
    InputError: it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise _missing(module.partition('.')[0], what, error) from error


@contextlib.contextmanager
def front_door() -> Iterator[None]:
  """`ttm_jax.errors.front_door`, which also puts a missing package of the extra in one sentence."""
  with errors.front_door():
    try:
      yield
    except ImportError as error:
      package = (error.name or '').partition('.')[0]
      if package not in PACKAGES:
        raise
      raise _missing(package, 'this command', error) from error


def _missing(package: str, what: str, error: ImportError) -> InputError:
  return InputError(
    f"{what} needs {package}, which cannot be imported ({error}); install 'ttm_jax[data]'"
  )
