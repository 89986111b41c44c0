"""Errors that are the user's to mend, and how the front doors show them.

Code anywhere raises `InputError` with one sentence that names the thing and the remedy. A front
door runs its `main` under `front_door`: the sentence goes to stderr without a traceback and the
process ends with exit code 2.
"""

import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator

EXIT_CODE = 2


class InputError(ValueError):
  """Something the user gave (a file, an option, a data set) cannot be used as it is."""


@contextlib.contextmanager
def front_door() -> Iterator[None]:
  """Shows an InputError as one line on stderr and exits with code 2; lets the rest through."""
  try:
    yield
  except InputError as error:
    print(f'error: {printable(error)}', file=sys.stderr)
    sys.exit(EXIT_CODE)


def printable(text: object) -> str:
  """Return `str(text)` with control characters, surrogates and the like escaped; line ends stay.

  Names and keys come from files of others: printed as they are, they could move the cursor, hide
  text or send commands to the terminal.
  """
  kept = (c if c.isprintable() or c == '\n' else repr(c)[1:-1] for c in str(text))
  return ''.join(kept)


def nearest(name: str, known: Iterable[str]) -> str:
  """' (did you mean "x"?)' for the known name most like `name`, or an empty string."""
  matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  return f' (did you mean "{matches[0]}"?)' if matches else ''
