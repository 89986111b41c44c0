"""Write files and folders that appear under their final name only when they are complete.

Content is written under a temporary name in the same folder, flushed to disk, and renamed. A reader
never sees half of it, neither after a crash of the process nor after a loss of power. Temporary
names are unique, so that two writers of one path do not mix their content. What a killed process
left is removed by the next writer of the same path: a living writer holds a lock on its temporary
file or folder.

For local paths; `ttm_jax.data.remote` serves buckets.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]

_SUFFIX = '.partial'
_LONGEST = 50  # Characters of the final name in the temporary one; file systems take 255 bytes.


@contextlib.contextmanager
def new_file(path: PathLike) -> Iterator[Path]:
  """Yield a temporary path to write to; on success it becomes `path` and replaces what was there.

  The folder of `path` is made where it is missing. After an exception `path` is as it was.

  Raises:
    OSError: the file cannot be written.
  """
  final = Path(os.path.realpath(path))
  final.parent.mkdir(parents=True, exist_ok=True)
  partial = _temporary(final)
  descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
  try:
    with _locked(descriptor):
      yield partial
      flush(partial)  # Opens it again: a library may have replaced the file by one of its own.
      partial.replace(final)
    flush(final.parent)
  finally:
    partial.unlink(missing_ok=True)


def write_bytes(path: PathLike, content: bytes) -> None:
  """Write `content` to `path` as `new_file` does.

  Raises:
    OSError: the file cannot be written.
  """
  with new_file(path) as partial:
    partial.write_bytes(content)


def write_text(path: PathLike, text: str) -> None:
  """Write `text` as UTF-8 to `path` as `new_file` does.

  Raises:
    OSError: the file cannot be written.
  """
  write_bytes(path, text.encode())


@contextlib.contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
  """Yield a temporary folder to fill; on success it becomes `path`, which must be free.

  A path is free if nothing is there, or an empty folder. Of two processes that write one path at
  the same time the first to finish succeeds, and the other raises.

  Raises:
    InputError: `path` is not free, before the work or after it.
    OSError: the folder cannot be written.
  """
  final = Path(os.path.realpath(path))
  check_free(final)
  final.parent.mkdir(parents=True, exist_ok=True)
  partial = _temporary(final)
  partial.mkdir()
  descriptor = os.open(partial, os.O_RDONLY)
  try:
    with _locked(descriptor):
      yield partial
      flush_tree(partial)
      try:
        partial.rename(final)
      except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
          raise InputError(
            f'{path}: another process wrote it in the meantime; compare the two, or name another'
            ' folder'
          ) from error
        raise
    flush(final.parent)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def replaced_folder(path: PathLike) -> Iterator[Path]:
  """Yield a temporary folder to fill; on success it takes the place of the folder `path`, if any.

  After an exception `path` is as it was. Of two processes that write one path at the same time the
  last to finish wins; their content does not mix.

  Raises:
    InputError: something other than a folder is at `path`.
    OSError: the folder cannot be written.
  """
  final = Path(os.path.realpath(path))
  if final.exists() and not final.is_dir():
    raise InputError(f'{path}: already exists and is not a folder; name another folder')
  final.parent.mkdir(parents=True, exist_ok=True)
  partial, old = _temporary(final), _temporary(final)
  partial.mkdir()
  descriptor = os.open(partial, os.O_RDONLY)
  try:
    with _locked(descriptor):
      yield partial
      flush_tree(partial)
      while True:
        with contextlib.suppress(FileNotFoundError):
          final.rename(old)
        try:
          partial.rename(final)
          break
        except OSError as error:
          if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # Another process was faster.
            shutil.rmtree(old, ignore_errors=True)
            continue
          if old.exists():
            old.rename(final)
          raise
    flush(final.parent)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
    if final.exists():
      shutil.rmtree(old, ignore_errors=True)


def check_free(path: PathLike) -> None:
  """Raise InputError unless nothing is at `path`, or an empty folder."""
  path = Path(path)
  if path.is_dir():
    if any(path.iterdir()):
      raise InputError(f'{path}: the folder is not empty; name a new folder, or empty this one')
  elif path.exists():
    raise InputError(f'{path}: already exists and is not a folder; name a new folder')


def flush(path: PathLike) -> None:
  """Ask the system to put a file's content, or a folder's list of names, on the disk.

  File systems that cannot do so for a folder are left alone.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
      raise
  finally:
    os.close(descriptor)


def flush_tree(folder: PathLike) -> None:
  """`flush` everything in a folder, and the folder."""
  for root, _, files in os.walk(folder, topdown=False):
    for name in files:
      flush(os.path.join(root, name))
    flush(root)


def _temporary(final: Path) -> Path:
  """A unique name beside `final`; what killed writers of `final` left is removed first."""
  stem = f'.{final.name[:_LONGEST]}.'
  with contextlib.suppress(OSError):
    for entry in final.parent.iterdir():
      middle = entry.name.removeprefix(stem).removesuffix(_SUFFIX)
      if entry.name == f'{stem}{middle}{_SUFFIX}' and len(middle) == 32 and middle.isalnum():
        _remove_abandoned(entry)
  return final.with_name(f'{stem}{uuid.uuid4().hex}{_SUFFIX}')


def _remove_abandoned(entry: Path) -> None:
  with contextlib.suppress(OSError):
    descriptor = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Raises while the writer lives.
      shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    finally:
      os.close(descriptor)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
  """Hold a lock on an open file or folder; close it at the end.

  A file system without locks is left without one.
  """
  try:
    with contextlib.suppress(OSError):
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  finally:
    os.close(descriptor)
