"""Read files with one JSON object a line, as far as they can be read."""

import json
from typing import TypeGuard

from etils import epath


def read(path: epath.PathLike) -> tuple[list[dict], int]:
  """Return the objects of a file in order, and how many lines are none.

  A machine that died may have left half a line or zeros; such lines are left out. A missing file
  has no lines.

  Raises:
    OSError: the file cannot be read.
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
  """Tell whether a value read from JSON is a number; true and false are none."""
  return isinstance(value, int | float) and not isinstance(value, bool)
