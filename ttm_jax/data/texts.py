"""Read small text and JSON files in the encodings that common editors and tools write."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]


def decode_text(content: bytes, where: PathLike) -> str:
  """Decode UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

  Args:
    content: the bytes of a file.
    where: the name of the file in the error message.

  Raises:
    InputError: the file has another encoding.
  """
  try:
    # Works for any text: checks the byte order mark, else the zero bytes of the first characters.
    return content.decode(json.detect_encoding(content))
  except UnicodeDecodeError as error:
    raise InputError(f'{where}: not a text in UTF-8; convert it') from error


def read_text(path: PathLike) -> str:
  """Return the text of a file (see `decode_text`).

  Raises:
    InputError: the file cannot be read, or has another encoding.
  """
  try:
    content = Path(path).read_bytes()
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from error
  except ValueError as error:  # A NUL character in the path.
    raise InputError(f'{path}: cannot be read ({error}); check the path') from error
  return decode_text(content, path)


def lines_of(text: str) -> Iterator[str]:
  """Yield the lines of a text without their line endings (LF, CR LF or CR).

  Unlike `str.splitlines`, this does not split at characters such as U+2028.
  """
  text = text.replace('\r\n', '\n').replace('\r', '\n')
  yield from text.removesuffix('\n').split('\n')


def parse_json(
  text: str, where: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
  """Parse a JSON text.

  Args:
    text: the JSON text.
    where: the name of the text in the error message.
    pairs: converts the (key, value) pairs of each object; see `object_pairs_hook` of `json.loads`.
      By default a dict, in which the last of duplicate keys wins.

  Raises:
    InputError: the text is not valid JSON, or is nested too deeply.
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
  """Return whether a text can be encoded as UTF-8.

  Strings from JSON or file names may contain lone surrogates, which cannot.
  """
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True
