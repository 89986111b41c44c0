"""Errors that users can fix, and how commands report them.

Any code may raise `InputError` with a one-sentence message that names the problem and the remedy.
Each command runs its `main` under `front_door`, which prints the message to stderr without a
traceback and exits with code 2.
"""

import contextlib
import difflib
import re
import sys
from collections.abc import Iterable, Iterator

EXIT_CODE = 2

# The extra of this package that installs a module, by the module's name.
_EXTRAS = {
  'apache_beam': 'data',
  'diffusers': 'torch',
  'fastapi': 'studio',
  'ftfy': 'torch',
  'gcsfs': 'gcs',
  'gradio': 'studio',
  'huggingface_hub': 'torch',
  'libtpu': 'tpu',
  'pycocotools': 'data',
  'scipy': 'data',
  'starlette': 'studio',
  'torch': 'torch',
  'transformers': 'torch',
  'uvicorn': 'studio',
  'wandb': 'wandb',
}


class InputError(ValueError):
  """Raised if a user's input (a file, an option, a dataset) cannot be used as it is."""


@contextlib.contextmanager
def front_door() -> Iterator[None]:
  """Print an InputError as one line to stderr and exit with code 2.

  An ImportError is treated likewise if an extra of this package installs the missing module. Other
  exceptions propagate.

  Raises:
    SystemExit: With code 2, for these errors.
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
  """Return the extra that installs the module missing in an error or its causes, or None."""
  found = re.search(r"[Nn]o module named '?(\w+)", str(error))
  name = found[1] if found else (getattr(error, 'name', None) or '').partition('.')[0]
  if not name and error.__cause__ is not None:
    return _extra(error.__cause__)
  return _EXTRAS.get(name)


def printable(text: object) -> str:
  """Return `str(text)` with non-printable characters escaped, except line ends.

  Names and keys may come from untrusted files. Unescaped, they could move the cursor, hide text or
  send commands to the terminal.
  """
  kept = (c if c.isprintable() or c == '\n' else repr(c)[1:-1] for c in str(text))
  return ''.join(kept)


def nearest(name: str, known: Iterable[str]) -> str:
  """Return ' (did you mean "x"?)' with the known name closest to `name`, or an empty string."""
  matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  return f' (did you mean "{matches[0]}"?)' if matches else ''
