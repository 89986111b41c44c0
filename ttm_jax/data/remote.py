"""Folders at addresses such as gs://, for code that reads and writes folders on disk."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

PathLike = str | os.PathLike


@contextlib.contextmanager
def fetched(directory: PathLike, name: str) -> Iterator[Path]:
  """A directory on disk with the folder `name` of `directory`: itself, or a passing copy.

  What is not there is not copied.
  """
  if not _is_remote(directory):
    yield Path(directory)
    return
  with tempfile.TemporaryDirectory(prefix='fetched') as place:
    source = epath.Path(directory) / name
    if source.exists():
      _copy(source, epath.Path(place) / name)
    yield Path(place)


@contextlib.contextmanager
def kept(directory: PathLike, name: str, last: str) -> Iterator[Path]:
  """A directory on disk whose folder `name` ends up in `directory`.

  Args:
    last: the file that readers look for; at an address it is written after all others, since
      folders cannot be renamed there at once.
  """
  if not _is_remote(directory):
    yield Path(directory)
    return
  with tempfile.TemporaryDirectory(prefix='kept') as place:
    yield Path(place)
    final = epath.Path(directory) / name
    if final.exists():
      (final / last).unlink(missing_ok=True)
      final.rmtree()
    source = epath.Path(place) / name
    _copy(source, final, without=last)
    (final / last).write_bytes((source / last).read_bytes())


def _is_remote(directory: PathLike) -> bool:
  return '://' in os.fspath(directory)


def _copy(source: epath.Path, target: epath.Path, without: str = '') -> None:
  target.mkdir(parents=True, exist_ok=True)
  for item in source.iterdir():
    if item.is_dir():
      _copy(item, target / item.name)
    elif item.name != without:
      (target / item.name).write_bytes(item.read_bytes())
