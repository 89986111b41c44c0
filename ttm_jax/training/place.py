"""Folders handed to Orbax and TensorStore under names that they read literally.

Orbax looks for files with patterns (`glob`) and puts the folder's own path into the pattern: in
`proj [v1]` the brackets then match the single characters v and 1, and nothing is found. TensorStore
takes UTF-8 only. A folder whose path has such characters is reached through a symbolic link in a
temporary folder, which both can read.
"""

import os
import re
import tempfile
from pathlib import Path

from etils import epath

from ttm_jax.data.storage import is_local
from ttm_jax.errors import InputError

_PLAIN = re.compile(r'[\w ./,:=@+-]*')  # Letters of all scripts, and marks without a meaning.
_PATTERN = re.compile(r'[*?\[\]]')


class PlainPath:
  """A folder, and the path under which libraries reach it.

  Attributes:
    folder: as the user named it.
  """

  def __init__(self, folder: epath.Path):
    self.folder = folder
    self._temporary: tempfile.TemporaryDirectory | None = None
    self._path: epath.Path | None = folder if is_plain(folder) else None

  @property
  def path(self) -> epath.Path:
    """Return the folder's own path where that is plain, else one through a link.

    The folder must exist. The link lives as long as this object, or until `close`.

    Raises:
      InputError: there is no temporary folder with a plain path.
    """
    if self._path is None:
      link = self.temporary() / 'folder'
      link.symlink_to(os.fspath(self.folder), target_is_directory=True)
      self._path = epath.Path(link)
    return self._path

  def temporary(self) -> Path:
    """Return a temporary folder of this object, with a plain path.

    Raises:
      InputError: there is none.
    """
    if self._temporary is None:
      parent = next((f for f in (tempfile.gettempdir(), '/tmp', '/var/tmp') if is_plain(f)), None)
      if parent is None:
        raise InputError(
          f'the temporary folder {tempfile.gettempdir()} has characters in its path that mean'
          ' something else in a pattern: set TMPDIR to another folder'
        )
      self._temporary = tempfile.TemporaryDirectory(prefix='ttm', dir=parent)
    return Path(self._temporary.name)

  def original(self, text: str) -> str:
    """Return `text` with the folder's own path in place of the link's, for messages."""
    if self._path is None:
      return text
    return text.replace(os.fspath(self._path), os.fspath(self.folder))

  def close(self) -> None:
    """Remove the temporary folder."""
    if self._temporary is not None:
      self._temporary.cleanup()
      self._temporary = None
      self._path = self.folder if is_plain(self.folder) else None


def is_plain(path: epath.PathLike) -> bool:
  """Tell whether libraries read a path literally; addresses of buckets cannot be linked to."""
  return not is_local(path) or bool(_PLAIN.fullmatch(os.fspath(path)))


def check_address(folder: epath.Path) -> None:
  """Raise InputError if a bucket's address has characters that Orbax takes for a pattern."""
  if not is_local(folder) and _PATTERN.search(os.fspath(folder)):
    raise InputError(
      f'{folder}: checkpoints cannot be saved at an address with *, ?, [ or ] in it; choose another'
      ' --workdir'
    )
