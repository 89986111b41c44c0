"""Give Orbax and TensorStore a path without special characters.

Orbax finds files with `glob` and puts the folder's path into the pattern unescaped. In `proj [v1]`
the brackets then match the single characters v and 1, and nothing is found. TensorStore accepts
UTF-8 paths only. A folder with such a path is opened through a symbolic link in a temporary folder.
"""

import os
import re
import tempfile
from pathlib import Path

from etils import epath

from ttm_jax.data.storage import is_local
from ttm_jax.errors import InputError

_PLAIN = re.compile(r'[\w ./,:=@+-]*')  # Letters of all scripts, and punctuation safe in `glob`.
_PATTERN = re.compile(r'[*?\[\]]')


class PlainPath:
  """A folder, and a path without special characters that leads to it.

  Attributes:
    folder: the folder as named by the user.
  """

  def __init__(self, folder: epath.Path):
    self.folder = folder
    self._temporary: tempfile.TemporaryDirectory | None = None
    self._path: epath.Path | None = folder if is_plain(folder) else None

  @property
  def path(self) -> epath.Path:
    """The folder's own path if it is plain, else one through a symbolic link.

    The folder must exist. The link exists until `close` or until this object is deleted.

    Raises:
      InputError: if there is no temporary folder with a plain path.
    """
    if self._path is None:
      link = self.temporary() / 'folder'
      link.symlink_to(os.fspath(self.folder), target_is_directory=True)
      self._path = epath.Path(link)
    return self._path

  def temporary(self) -> Path:
    """Return a temporary folder with a plain path, owned by this object.

    Raises:
      InputError: if there is none.
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
    """Replace the link's path in an error message by the folder's own path."""
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
  """Return whether a path needs no link; always true for buckets, which cannot be linked to."""
  return not is_local(path) or bool(_PLAIN.fullmatch(os.fspath(path)))


def check_address(folder: epath.Path) -> None:
  """Raise InputError if a bucket address has characters that Orbax interprets as a pattern."""
  if not is_local(folder) and _PATTERN.search(os.fspath(folder)):
    raise InputError(
      f'{folder}: checkpoints cannot be saved at an address with *, ?, [ or ] in it; choose another'
      ' --workdir'
    )
