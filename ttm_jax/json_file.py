"""Read small JSON files that may be damaged or untrusted."""

import json
import os
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError

LIMIT = 64 * 2**20  # Bytes; the description of 100,000 shards takes about 2 MB.


def read_object(path: Path, remedy: str = 'copy it again', limit: int = LIMIT) -> dict[str, Any]:
  """Return the JSON object of a file.

  The file may start with a byte order mark. All of its strings are valid Unicode. Lone surrogates
  are rejected, since JSON can express them but UTF-8 cannot.

  Args:
    path: Path of `pathlib`, or of etils for files on gs://.
    remedy: What the user can do; ends the error message.
    limit: Largest file size accepted, in bytes.

  Raises:
    InputError: If the file is missing, not a regular file, too large or unreadable; or is not JSON,
      is nested too deeply, or holds something other than an object.
  """
  try:
    # Reading a pipe or a device might never end; the `is_file` of etils accepts them.
    local = '://' not in str(path)
    if not (os.path.isfile(path) if local else path.is_file()):
      what = 'not a file' if path.exists() else 'missing'
      raise InputError(f'{path}: {what}; {remedy}')
    with path.open('rb') as file:
      content = file.read(limit + 1)
    if len(content) > limit:
      raise InputError(f'{path}: has more than {limit} bytes, the most that is read; {remedy}')
    value = json.loads(content)
    json.dumps(value, ensure_ascii=False).encode()
  except InputError:
    raise
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror or error}); {remedy}') from error
  except RecursionError as error:
    raise InputError(f'{path}: damaged (nested too deep); {remedy}') from error
  except ValueError as error:  # Includes Unicode errors and integers with thousands of digits.
    raise InputError(f'{path}: not JSON ({_short(error)}); {remedy}') from error
  if not isinstance(value, dict):
    raise InputError(f'{path}: must hold a JSON object, not {type(value).__name__}; {remedy}')
  return value


def _short(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:200]
