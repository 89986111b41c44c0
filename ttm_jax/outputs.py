"""Check that a command's outputs can be written and overwrite no input, before any work is done.

Every command calls `check` first. Paths and all of their parent folders are compared by device and
inode. The comparison is therefore correct for relative paths, symbolic and hard links, bind mounts
and case-insensitive file systems. URLs such as gs://bucket/folder are compared as text.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]
# The inputs of a command, by the option that names them: one path, several, or none.
Reads = Mapping[str, PathLike | Iterable[PathLike] | None]

_Identity = tuple[int, int] | str


def check(
  option: str,
  files: Iterable[PathLike] = (),
  folders: Iterable[PathLike] = (),
  reads: Reads | None = None,
  needed: int = 2**16,
) -> None:
  """Check that outputs can be written and would not replace an input.

  No outputs are created. URLs are only compared with the inputs.

  Args:
    option: Option that names the outputs, such as '--out'; for the error message.
    files: Output files.
    folders: Output folders whose content may be replaced.
    reads: The inputs by their options.
    needed: Approximate free disk space needed, in bytes.

  Raises:
    InputError: If an output cannot be written, or would replace an input.
  """
  files, folders = list(files), list(folders)
  check_apart(option, [*files, *folders], reads or {})
  probed: set[Path] = set()
  for output in files:
    _check_place(option, output, False, needed, probed)
  for output in folders:
    _check_place(option, output, True, needed, probed)


def check_apart(option: str, outputs: Iterable[PathLike], reads: Reads) -> None:
  """Check that no output would replace an input.

  An output replaces an input if both are the same file or folder, or if the input is inside an
  output folder. An output inside an input folder is allowed, so that results can be stored there;
  use `files_of` to protect the files of that folder. Inputs that do not exist locally, such as hub
  ids, are skipped.

  Args:
    option: See `check`.
    outputs: Output files, and output folders whose content may be replaced.
    reads: See `check`.

  Raises:
    InputError: If an output would replace an input.
  """
  for output in outputs:
    for name, given in reads.items():
      for path in _paths(given):
        if where := _replaced(output, path):
          raise InputError(
            f'{output} would overwrite {path}{where}, which {name} reads: name another {option}'
          )


@contextlib.contextmanager
def writing(path: PathLike, remedy: str) -> Iterator[None]:
  """Raise an OSError of the block as InputError: 'cannot write PATH (reason); REMEDY'."""
  try:
    yield
  except OSError as error:
    raise InputError(f'cannot write {path} ({error.strerror or error}); {remedy}') from error


def files_of(folder: PathLike | None) -> list[str]:
  """Return a folder and the files directly in it (not in subfolders), as an entry of `Reads`."""
  if not folder:
    return []
  found = [os.fspath(folder)]
  if not _is_address(folder):
    with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
      found += sorted(entry.path for entry in entries if entry.is_file())
  return found


def parts_of_run(run: PathLike | None) -> list[str]:
  """Return the files and folders of a run that other commands read, as an entry of `Reads`."""
  if not run:
    return []
  return [f'{os.fspath(run)}/{part}' for part in _RUN]


_RUN = ('config.json', 'base.json', 'context', 'checkpoints', 'metrics.jsonl', 'codec.json')


def _paths(given: PathLike | Iterable[PathLike] | None) -> list[PathLike]:
  """Return the paths of an entry of `Reads`."""
  if not given:
    return []
  paths = [given] if isinstance(given, str | os.PathLike) else given
  return [path for path in paths if path]


def _replaced(output: PathLike, path: PathLike) -> str:
  """Return where `path` is relative to `output`, in words, if writing `output` would replace it.

  Return an empty string if it would not.
  """
  ours, theirs = _lineage(output)[0], _lineage(path)
  if ours is None or theirs[0] is None or ours not in theirs:
    return ''
  return ' (the same place)' if ours == theirs[0] else ' inside it'


def _lineage(path: PathLike) -> list[_Identity | None]:
  """Return the identities of a path and of all its parents; None for those that do not exist."""
  text = os.fspath(path)
  if _is_address(text):
    scheme, _, rest = text.partition('://')
    names = [name for name in rest.split('/') if name not in ('', '.')]
    return [f'{scheme}://{"/".join(names[:n])}' for n in range(len(names), -1, -1)]
  try:
    real = Path(os.path.realpath(text))
  except (OSError, ValueError):
    return [None]
  return [_identity(place) for place in (real, *real.parents)]


def _identity(path: Path) -> _Identity | None:
  try:
    found = path.stat()
  except (OSError, ValueError):
    return None
  return found.st_dev, found.st_ino


def _is_address(path: PathLike) -> bool:
  return '://' in os.fspath(path)


def _check_place(
  option: str, output: PathLike, folder: bool, needed: int, probed: set[Path]
) -> None:
  """Raise InputError unless a file, or files in a folder, can be written at `output`."""
  if _is_address(output):
    return

  def refused(reason: str) -> InputError:
    return InputError(f'cannot write {output} ({reason}): name another {option}')

  try:
    real = Path(os.path.realpath(output))
    mode = _mode(real)
    if folder and mode and not stat.S_ISDIR(mode):
      raise refused('there is a file of that name')
    if not folder and mode and not stat.S_ISREG(mode):
      raise refused('there is a folder of that name' if stat.S_ISDIR(mode) else 'not a file')
    place = real if folder else real.parent
    while not _mode(place):
      place = place.parent
    if not place.is_dir():
      raise refused(f'{place} is not a folder')
    longest = os.pathconf(place, 'PC_NAME_MAX')
    if any(len(os.fsencode(name)) > longest for name in real.relative_to(place).parts):
      raise refused('file name too long')
    if place in probed:
      return
    probed.add(place)
    if shutil.disk_usage(place).free < needed:
      raise refused('no space left on device')
    with tempfile.TemporaryFile(dir=place) as file:
      file.write(bytes(needed))
      file.flush()
      os.fsync(file.fileno())
  except InputError:
    raise
  except (OSError, ValueError) as error:
    reason = (getattr(error, 'strerror', None) or str(error)).lower()
    raise refused(reason) from error


def _mode(path: Path) -> int:
  """Return the type and permission bits of a file, or 0 if it does not exist."""
  try:
    return path.stat().st_mode
  except FileNotFoundError:
    return 0
