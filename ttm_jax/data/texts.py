"""Read small text and JSON files as people and their tools write them."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]


def decode_text(content: bytes, where: PathLike) -> str:
  """Return UTF-8, UTF-16 or UTF-32 as text, with or without a byte order mark.

  Args:
    content: the bytes of a file.
    where: names the file in the error.

  Raises:
    InputError: it is in another encoding.
  """
  try:
    # Not special to JSON: it looks at the mark, else at where the first characters have zeros.
    return content.decode(json.detect_encoding(content))
  except UnicodeDecodeError as error:
    raise InputError(f'{where}: not a text in UTF-8; convert it') from error


def read_text(path: PathLike) -> str:
  """Return the text of a file, see `decode_text`.

  Raises:
    InputError: the file cannot be read, or is in another encoding.
  """
  try:
    content = Path(path).read_bytes()
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from error
  except ValueError as error:  # A NUL character in the path.
    raise InputError(f'{path}: cannot be read ({error}); check the path') from error
  return decode_text(content, path)


def lines_of(text: str) -> Iterator[str]:
  """Yield the lines of a text file without their ends: LF, CR LF or CR.

  `str.splitlines` also splits at characters like U+2028, which may stand within a line.
  """
  text = text.replace('\r\n', '\n').replace('\r', '\n')
  yield from text.removesuffix('\n').split('\n')


def parse_json(
  text: str, where: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
  """Return what a JSON text holds.

  Args:
    where: names the text in the error.
    pairs: makes a value of each object; by default a dict, where the last of equal keys counts.

  Raises:
    InputError: it is not valid JSON, or nested too deeply to be read.
  """
  try:
    return json.loads(text, object_pairs_hook=pairs)
  except InputError:
    raise
  except ValueError as error:
    raise InputError(f'{where}: not valid JSON ({error}); mend it') from error
  except RecursionError as error:
    raise InputError(f'{where}: JSON that is nested too deeply; flatten it') from error


def is_unicode(text: str) -> bool:
  """Return whether a text can be stored: JSON may hold halves of characters, file names bytes."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True
