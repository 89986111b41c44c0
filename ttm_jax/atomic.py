"""Atomic writes of files and folders: the final name appears only when the content is complete.

Content is written to a temporary name in the same folder, flushed to disk, and renamed. Readers
never see partial content, even after a process crash or a power failure. Temporary names are
unique, so that two writers of one path do not mix their content. A running writer holds a lock on
its temporary file or folder. The next writer of the same path removes unlocked leftovers of killed
processes.

This module handles local paths; use `ttm_jax.data.storage` for buckets.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]

_SUFFIX = '.partial'
_LONGEST = 50  # Characters of the final name in the temporary name; file names have <= 255 bytes.


@contextlib.contextmanager
def new_file(path: PathLike, durable: bool = True) -> Iterator[Path]:
  """Yield a temporary path to write to; on success, rename it to `path`.

  An existing file at `path` is replaced. Missing parent folders are created. After an exception
  `path` is unchanged.

  Args:
    path: Where the file shall be.
    durable: Whether to flush to disk. Without it, a power failure may leave an empty or broken
      file, so it is for caches alone, whose readers take such a file for a missing one.

  Raises:
    OSError: If the file cannot be written.
  """
  final = Path(os.path.realpath(path))
  final.parent.mkdir(parents=True, exist_ok=True)
  partial, descriptor = _claimed(final, _create_file)
  try:
    with _closed(descriptor):
      yield partial
      if durable:
        flush(partial)  # By path, since a library may have replaced the file behind `descriptor`.
      partial.replace(final)
    if durable:
      flush(final.parent)
  finally:
    partial.unlink(missing_ok=True)


def write_bytes(path: PathLike, content: bytes) -> None:
  """Write `content` to `path` atomically; see `new_file`.

  Raises:
    OSError: If the file cannot be written.
  """
  with new_file(path) as partial:
    partial.write_bytes(content)


def write_text(path: PathLike, text: str) -> None:
  """Write `text` to `path` atomically, encoded as UTF-8; see `new_file`.

  Raises:
    OSError: If the file cannot be written.
  """
  write_bytes(path, text.encode())


@contextlib.contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
  """Yield a temporary folder to fill; on success, rename it to `path`.

  `path` must not exist, or must be an empty folder. If two processes write one path at the same
  time, the first to finish succeeds and the other raises InputError.

  Raises:
    InputError: If `path` is not free, before or after the folder is filled.
    OSError: If the folder cannot be written.
  """
  final = Path(os.path.realpath(path))
  check_free(final)
  with _filled(final) as partial:
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


@contextlib.contextmanager
def replaced_folder(path: PathLike) -> Iterator[Path]:
  """Yield a temporary folder to fill; on success, replace the folder `path` by it.

  `path` need not exist. After an exception it is unchanged. If two processes write one path at the
  same time, the last to finish wins; their content does not mix.

  Raises:
    InputError: If `path` exists and is not a folder.
    OSError: If the folder cannot be written.
  """
  final = Path(os.path.realpath(path))
  if final.exists() and not final.is_dir():
    raise InputError(f'{path}: already exists and is not a folder; name another folder')
  old = _temporary(final)
  with _filled(final) as partial:
    yield partial
    flush_tree(partial)
    try:
      while True:
        with contextlib.suppress(FileNotFoundError):
          final.rename(old)
        try:
          partial.rename(final)
          break
        except OSError as error:
          if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # Another process renamed first.
            shutil.rmtree(old, ignore_errors=True)
            continue
          if old.exists():
            old.rename(final)
          raise
    finally:
      if final.exists():
        shutil.rmtree(old, ignore_errors=True)
  flush(final.parent)


@contextlib.contextmanager
def _filled(final: Path) -> Iterator[Path]:
  """Yield a new locked folder beside `final`, which is removed unless it has been renamed."""
  final.parent.mkdir(parents=True, exist_ok=True)
  partial, descriptor = _claimed(final, _create_folder)
  try:
    with _closed(descriptor):
      yield partial
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def check_free(path: PathLike) -> None:
  """Raise InputError unless `path` does not exist or is an empty folder."""
  path = Path(path)
  if path.is_dir():
    if any(path.iterdir()):
      raise InputError(f'{path}: the folder is not empty; name a new folder, or empty this one')
  elif path.exists():
    raise InputError(f'{path}: already exists and is not a folder; name a new folder')


def flush(path: PathLike) -> None:
  """Flush a file's content, or a folder's entries, to disk with `fsync`.

  Errors of file systems that do not support this are ignored.

  Raises:
    OSError: If `path` cannot be opened, or flushing fails for another reason.
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
  """Flush all files and subfolders of a folder, then the folder itself; see `flush`."""
  for root, _, files in os.walk(folder, topdown=False):
    for name in files:
      flush(os.path.join(root, name))
    flush(root)


def _temporary(final: Path) -> Path:
  """Return a unique path beside `final`, after removing leftovers of killed writers of `final`."""
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
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Fails while the writer is running.
      shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    finally:
      os.close(descriptor)


def _claimed(final: Path, create: Callable[[Path], int]) -> tuple[Path, int]:
  """Create a temporary file or folder beside `final` and lock it.

  Between the two, another writer may take it for a leftover and remove it. Then it is created anew.

  Args:
    final: the final path.
    create: path -> an open descriptor of what it created there.

  Returns:
    The path, and the descriptor, which holds the lock until it is closed.
  """
  while True:
    partial = _temporary(final)
    try:
      descriptor = create(partial)
    except FileNotFoundError:
      if not final.parent.is_dir():
        raise
      continue
    if _lock(descriptor) and _is_at(descriptor, partial):
      return partial, descriptor
    os.close(descriptor)


def _create_file(path: Path) -> int:
  return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)


def _create_folder(path: Path) -> int:
  path.mkdir()
  return os.open(path, os.O_RDONLY)


def _lock(descriptor: int) -> bool:
  """Lock an open file or folder; return False if another process has locked it.

  On file systems without locks, return True without a lock.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    return not isinstance(error, BlockingIOError)
  return True


def _is_at(descriptor: int, path: Path) -> bool:
  """Return whether an open file or folder is still the one at a path."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


@contextlib.contextmanager
def _closed(descriptor: int) -> Iterator[None]:
  """Close a descriptor, and so release its lock, at the end."""
  try:
    yield
  finally:
    os.close(descriptor)
