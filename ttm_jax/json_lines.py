"""Read files with one JSON object per line, skipping damaged lines."""

import json
from typing import TypeGuard

from etils import epath


def read(path: epath.PathLike) -> tuple[list[dict], int]:
  """Return the objects of a file in order, and the number of lines skipped.

  Lines that are not JSON objects are skipped: a host that crashed may leave a partial line or zero
  bytes. A missing file counts as empty.

  Raises:
    OSError: If the file cannot be read.
  """
  path = epath.Path(path)
  if not path.exists():
    return [], 0
  found, bad = [], 0
  for text in path.read_bytes().split(b'\n'):
    if not text.strip():
      continue
    try:
      line = json.loads(text)
    except (ValueError, RecursionError):
      line = None
    if isinstance(line, dict):
      found.append(line)
    else:
      bad += 1
  return found, bad


def is_number(value: object) -> TypeGuard[float]:
  """Return whether a value read from JSON is a number; true and false are not."""
  return isinstance(value, int | float) and not isinstance(value, bool)
