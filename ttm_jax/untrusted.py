"""Validate names in untrusted files, and paths confined to their folder.

Downloaded folders are untrusted. No name or link in such a folder may lead outside of it.
"""

import os
import re
from pathlib import Path

from ttm_jax.errors import InputError

_IDENTIFIER = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}')
_REPOSITORY = re.compile(r'[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?', re.ASCII)


def identifier(name: object, where: object) -> str:
  """Return `name` if it is an identifier of at most 64 ASCII letters, digits, `_`, `-` and `.`.

  File and folder names are built from identifiers, so an identifier must not be a path. It starts
  with a letter, a digit or `_`.

  Args:
    name: The value to check.
    where: Where the name was found, for the error message.

  Raises:
    InputError: If `name` is not an identifier.
  """
  if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
    raise InputError(
      f'{where}: {_short(name)} cannot be used as a name: give one of at most 64 letters, digits,'
      ' "_", "-" and "."'
    )
  return name


def is_repository(name: object) -> bool:
  """Return whether `name` has the form of a hub repository id: `owner/name` or `name`."""
  return isinstance(name, str) and bool(_REPOSITORY.fullmatch(name)) and '..' not in name


def inside(folder: Path, name: object, where: object) -> Path:
  """Return the path of an untrusted relative name in `folder`.

  Symbolic links are resolved. The links of the hub's cache, from a snapshot to the `blobs` of the
  same repository, are allowed.

  Args:
    folder: The folder that the path must stay in.
    name: The untrusted relative path.
    where: The file that contains the name, for the error message.

  Raises:
    InputError: If the name is not a relative path, or leads out of the folder.
  """
  if not isinstance(name, str) or not name.isprintable() or not name.strip('./') or '\\' in name:
    raise InputError(
      f'{where} names {_short(name)}, which is not a file name: copy the folder again'
    )
  if os.path.isabs(name) or '..' in Path(name).parts:
    raise InputError(
      f'{where} names {_short(name)}, which leads out of {folder}: only files in that folder are'
      ' read'
    )
  path = folder / name
  check_links(folder, path)
  return path


def check_links(folder: Path, path: Path) -> None:
  """Raise InputError if symbolic links make `path` point outside of `folder`.

  The links of the hub's cache are allowed; see `inside`.
  """
  real, found = (Path(os.path.realpath(p)) for p in (folder, path))
  if found == real or real in found.parents:
    return
  for parent in real.parents:
    if parent.name == 'snapshots' and parent.with_name('blobs') in found.parents:
      return
  raise InputError(f'{path} is a link to {found}, outside of {folder}: put the file itself there')


def _short(value: object) -> str:
  text = repr(value)
  return text if len(text) <= 100 else f'{text[:100]}...'
