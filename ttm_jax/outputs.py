"""Check before any work that the outputs of a command can be written and replace no input.

Every command calls `check` first. Paths are compared by device and inode, along all of their parent
folders, so that relative paths, symbolic and hard links, bind mounts, and file systems that ignore
case make no difference. Addresses such as gs://bucket/folder are compared as text.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]
# What a command reads by the option that names it: one path, several, or none.
Reads = Mapping[str, PathLike | Iterable[PathLike] | None]

_Identity = tuple[int, int] | str


def check(
  option: str,
  files: Iterable[PathLike] = (),
  folders: Iterable[PathLike] = (),
  reads: Reads | None = None,
  needed: int = 2**16,
) -> None:
  """Raise InputError where an output cannot be written, or would replace an input.

  Nothing is created.

  Args:
    option: of the outputs, for the error message, as '--out'.
    files, folders: the outputs. A folder here is one whose content may be replaced.
    reads: the inputs by their options.
    needed: bytes that must be free, about.
  """
  files, folders = list(files), list(folders)
  check_apart(option, [*files, *folders], reads or {})
  probed: set[Path] = set()
  for output in files:
    _check_place(option, output, False, needed, probed)
  for output in folders:
    _check_place(option, output, True, needed, probed)


def check_apart(option: str, outputs: Iterable[PathLike], reads: Reads) -> None:
  """Raise InputError where an output would replace an input.

  It does if it is the same file or folder, or if the input lies inside an output folder. An output
  may lie inside an input folder, so that results can be kept there: give `files_of` that folder
  where its files are to be protected. Inputs that do not exist here, such as ids on a hub, are
  skipped.

  Args:
    option, reads: see `check`.
    outputs: files, and folders whose content may be replaced.
  """
  for output in outputs:
    for name, given in reads.items():
      for path in _paths(given):
        if where := _replaced(output, path):
          raise InputError(
            f'{output} would overwrite {path}{where}, which {name} reads: name another {option}'
          )


def files_of(folder: PathLike | None) -> list[str]:
  """A folder and the files that lie in it, not those of its subfolders, as an entry of `Reads`."""
  if not folder:
    return []
  found = [os.fspath(folder)]
  if not _is_address(folder):
    with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
      found += sorted(entry.path for entry in entries if entry.is_file())
  return found


def parts_of_run(run: PathLike | None) -> list[str]:
  """The files and folders of a run that other commands read, as an entry of `Reads`."""
  if not run:
    return []
  return [f'{os.fspath(run)}/{part}' for part in _RUN]


_RUN = ('config.json', 'context', 'checkpoints', 'metrics.jsonl', 'codec.json')


def _paths(given: PathLike | Iterable[PathLike] | None) -> list[PathLike]:
  """The paths of an entry of `Reads`."""
  if not given:
    return []
  paths = [given] if isinstance(given, str | os.PathLike) else given
  return [path for path in paths if path]


def _replaced(output: PathLike, path: PathLike) -> str:
  """Where `path` is, in words, if writing `output` would replace it; empty if it would not."""
  ours, theirs = _lineage(output)[0], _lineage(path)
  if ours is None or theirs[0] is None or ours not in theirs:
    return ''
  return ' (the same place)' if ours == theirs[0] else ' inside it'


def _lineage(path: PathLike) -> list[_Identity | None]:
  """The identity of a path and of all its parents; None for those that do not exist."""
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
  """The type and permission bits of a file; 0 where there is none."""
  try:
    return path.stat().st_mode
  except FileNotFoundError:
    return 0
