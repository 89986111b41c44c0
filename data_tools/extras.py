"""Imports of the optional packages of the extra `data`."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from ttm_jax import errors
from ttm_jax.errors import InputError

# Import names of the packages of the extra.
PACKAGES = ('apache_beam', 'pycocotools', 'scipy', 'torch', 'transformers')


def needed(module: str, what: str) -> Any:
  """Import and return a module of the extra.

  Args:
    module: full name of the module.
    what: the feature that needs the module, for the error message.

  Raises:
    InputError: if the module cannot be imported.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise _missing(module.partition('.')[0], what, error) from error


@contextlib.contextmanager
def front_door() -> Iterator[None]:
  """Like `ttm_jax.errors.front_door`, but also report a missing package in one line."""
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
