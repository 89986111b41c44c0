"""Folders that may lie on this machine's disks or in a bucket (gs://), with etils' paths.

Where a library knows only files of this machine, a temporary folder stands in for the remote one.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
  """A path that no change of the working directory alters; addresses stay as they are."""
  text = os.fspath(path)
  return epath.Path(text if '://' in text else os.path.abspath(text))


def is_local(path: epath.PathLike) -> bool:
  """Whether a path is one of this machine, disks over the network among them."""
  return '://' not in os.fspath(path)


def copy(source: epath.PathLike, target: epath.PathLike) -> None:
  """Copies a file, or a folder with all that is in it, over what is there."""
  source, target = epath.Path(source), epath.Path(target)
  if not source.is_dir():
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return
  for inner in source.iterdir():
    copy(inner, target / inner.name)


@contextlib.contextmanager
def mirrored(folder: epath.PathLike, *parts: str) -> Iterator[Path]:
  """A folder of this machine for one that may be remote: itself, or one that is copied back.

  Args:
    parts: files and folders in it that are brought beforehand, where they exist.
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
  """A part of a folder to read with libraries that know only files of this machine."""
  if is_local(folder):
    yield Path(folder) / part
    return
  with tempfile.TemporaryDirectory() as name:
    if (epath.Path(folder) / part).exists():
      copy(epath.Path(folder) / part, epath.Path(name) / part)
    yield Path(name) / part


@contextlib.contextmanager
def kept(folder: epath.PathLike, part: str, last: str) -> Iterator[Path]:
  """A folder of this machine in which `part` is made, and which ends up in one that may be remote.

  Args:
    last: the file of `part` that readers look for. In a bucket it is written after all others,
      since folders cannot be renamed there at once.
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
