"""Errors that are the user's to mend, and how the front doors show them.

Code anywhere raises `InputError` with one sentence that names the thing and the remedy. A front
door runs its `main` under `front_door`: the sentence goes to stderr without a traceback and the
process ends with exit code 2.
"""

import contextlib
import difflib
import re
import sys
from collections.abc import Iterable, Iterator

EXIT_CODE = 2

# The extra of this package that brings a module, by the module's name.
_EXTRAS = {
  'apache_beam': 'data',
  'diffusers': 'torch',
  'gcsfs': 'gcs',
  'huggingface_hub': 'torch',
  'libtpu': 'tpu',
  'pycocotools': 'data',
  'scipy': 'data',
  'torch': 'torch',
  'transformers': 'torch',
  'wandb': 'wandb',
}


class InputError(ValueError):
  """Something the user gave (a file, an option, a data set) cannot be used as it is."""


@contextlib.contextmanager
def front_door() -> Iterator[None]:
  """Show an InputError as one line on stderr and exit with code 2; let the rest through.

  A missing module that an extra of this package brings is shown likewise.
  """
  try:
    yield
  except InputError as error:
    print(f'error: {printable(error)}', file=sys.stderr)
    sys.exit(EXIT_CODE)
  except ImportError as error:
    extra = _extra(error)
    if extra is None:
      raise
    line = ' '.join(printable(error).split())
    print(f"error: {line}: install it with pip install 'ttm_jax[{extra}]'", file=sys.stderr)
    sys.exit(EXIT_CODE)


def _extra(error: BaseException) -> str | None:
  """The extra that brings a missing module, by the error or what caused it; None if none does."""
  found = re.search(r"[Nn]o module named '?(\w+)", str(error))
  if found is None:
    return None if error.__cause__ is None else _extra(error.__cause__)
  return _EXTRAS.get(found.group(1))


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
