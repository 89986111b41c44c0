"""Access folders on local disks or in buckets (gs://) through etils paths.

For libraries that support only local files, remote folders are copied to temporary local folders.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
  """Return an absolute path. URLs are returned unchanged."""
  text = os.fspath(path)
  return epath.Path(text if '://' in text else os.path.abspath(text))


def is_local(path: epath.PathLike) -> bool:
  """Return whether a path is in the local file system (including network mounts), not a URL."""
  return '://' not in os.fspath(path)


def copy(source: epath.PathLike, target: epath.PathLike) -> None:
  """Copy a file, or a folder recursively. Existing files are overwritten."""
  source, target = epath.Path(source), epath.Path(target)
  if not source.is_dir():
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return
  for inner in source.iterdir():
    copy(inner, target / inner.name)


@contextlib.contextmanager
def mirrored(folder: epath.PathLike, *parts: str) -> Iterator[Path]:
  """Yield a local folder for one that may be remote.

  A local folder is yielded itself. For a remote folder, yield a temporary folder, and copy its
  contents back if the block raises no exception.

  Args:
    folder: path or URL.
    *parts: names of files and folders in `folder` to copy beforehand, if they exist.
  """
  if is_local(folder):
    yield Path(folder)
    return
  with tempfile.TemporaryDirectory() as name:
    for part in parts:
      if (epath.Path(folder) / part).exists():
        copy(epath.Path(folder) / part, epath.Path(name) / part)
    yield Path(name)
    copy(name, folder)


@contextlib.contextmanager
def fetched(folder: epath.PathLike, part: str) -> Iterator[Path]:
  """Yield a local path to read one file or folder in a folder that may be remote.

  Args:
    folder: path or URL.
    part: name of the file or folder in `folder`.
  """
  if is_local(folder):
    yield Path(folder) / part
    return
  with tempfile.TemporaryDirectory() as name:
    if (epath.Path(folder) / part).exists():
      copy(epath.Path(folder) / part, epath.Path(name) / part)
    yield Path(name) / part


@contextlib.contextmanager
def kept(folder: epath.PathLike, part: str, last: str) -> Iterator[Path]:
  """Yield a local folder in which to create `part`; then copy it to `folder` if that is remote.

  A remote `part` that exists already is replaced.

  Args:
    folder: path or URL.
    part: name of the folder that the caller creates in the yielded folder.
    last: the file of `part` whose presence marks it as complete. It is copied to a bucket last,
      because buckets cannot rename folders atomically.
  """
  if is_local(folder):
    yield Path(folder)
    return
  with tempfile.TemporaryDirectory() as name:
    yield Path(name)
    made, final = Path(name) / part, epath.Path(folder) / part
    if final.exists():
      (final / last).unlink(missing_ok=True)
      final.rmtree()
    for inner in made.iterdir():
      if inner.name != last:
        copy(inner, final / inner.name)
    copy(made / last, final / last)
