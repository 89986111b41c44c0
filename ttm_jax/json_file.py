"""Read small JSON files that others may have written or damaged."""

import json
import os
from typing import Any

from etils import epath

from ttm_jax.errors import InputError

LIMIT = 64 * 2**20  # Bytes. The description of 100 000 shards takes two million.


def read_object(path: epath.PathLike, remedy: str, limit: int = LIMIT) -> dict[str, Any]:
  """Return the object that a JSON file holds.

  All of its strings are valid Unicode: lone surrogates, which JSON can spell but nothing can write,
  are refused.

  Args:
    path: of the file, local or at an address that etils understands.
    remedy: what the user can do, the end of the sentence of an error.
    limit: the most bytes that such a file may have.

  Raises:
    InputError: the file is missing, is no regular file, is too large, cannot be read, is not JSON,
      is nested too deep, or holds something else than an object.
  """
  path = epath.Path(path)
  try:
    # Of a pipe or a device, reading might never end; etils takes them for files.
    local = '://' not in str(path)
    if not (os.path.isfile(path) if local else path.is_file()):
      what = 'not a file' if path.exists() else 'missing'
      raise InputError(f'{path}: {what}; {remedy}')
    size = path.stat().length
    if size > limit:
      raise InputError(f'{path}: {size} bytes, but at most {limit} are read; {remedy}')
    value = json.loads(path.read_bytes().decode('utf-8-sig'))
    json.dumps(value, ensure_ascii=False).encode()
  except InputError:
    raise
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror or error}); {remedy}') from error
  except RecursionError as error:
    raise InputError(f'{path}: damaged (nested too deep); {remedy}') from error
  except ValueError as error:  # Also of Unicode, and of numbers with thousands of digits.
    raise InputError(f'{path}: not JSON ({_short(error)}); {remedy}') from error
  if not isinstance(value, dict):
    raise InputError(f'{path}: must hold a JSON object, not {type(value).__name__}; {remedy}')
  return value


def _short(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:200]
