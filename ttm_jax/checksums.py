"""Write and verify the checksums of an exported folder, in the format of `sha256sum`."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ttm_jax.errors import InputError
from ttm_jax.untrusted import check_links, inside

SUMS = 'SHA256SUMS'
INDEX = 'model_index.json'
COMPONENTS = ('stage1', 'motion_scheduler', 'stage2', 'scheduler', 'codec', 'text_encoder')
_LINE = re.compile(r'([0-9a-f]{64}) [ *](.+)')


def write_sums(folder: Path) -> None:
  """Write the SHA-256 checksums of all other files of a folder to `SHA256SUMS`."""
  paths = sorted(path for path in folder.rglob('*') if path.is_file() and path != folder / SUMS)
  lines = [f'{_digest(path)}  {path.relative_to(folder).as_posix()}\n' for path in paths]
  (folder / SUMS).write_text(''.join(lines))


def check_sums(folder: Path, component: str = '') -> None:
  """Compare the files of an exported folder with the checksums in `SHA256SUMS`.

  Every file that may be read must be listed, see `files_read`.

  Args:
    folder: an exported folder.
    component: folder in it; only files in this one are compared. By default all that are listed.

  Raises:
    InputError: if the list is missing or corrupt, if a file is modified, unreadable or not listed,
      or if a path leads out of the folder.
  """
  try:
    lines = (folder / SUMS).read_text().splitlines()
  except UnicodeDecodeError as error:
    raise InputError(f'{folder / SUMS} is damaged: copy the complete folder again') from error
  except OSError as error:
    raise InputError(
      f'{folder} has no {SUMS} ({error.strerror}): it was not copied completely; verify=False of'
      ' TTMPipeline.from_pretrained loads a folder without checksums'
    ) from error
  listed = set()
  for number, line in enumerate(lines, 1):
    if not (found := _LINE.fullmatch(line)):
      raise InputError(f'{folder / SUMS}: line {number} is damaged: copy the complete folder again')
    path = inside(folder, found[2], folder / SUMS)
    listed.add(path)
    if component and folder / component not in path.parents:
      continue
    try:
      digest = _digest(path)
    except OSError as error:
      raise InputError(
        f'{path} cannot be read ({error.strerror}): copy the complete folder again'
      ) from error
    if digest != found[1]:
      raise InputError(
        f'{path} is not as it was exported: it was changed or cut off, copy it again'
      )
  read = files_read(folder, [component] if component else COMPONENTS)
  if unknown := [path for path in read if path not in listed]:
    raise InputError(
      f'{unknown[0]} is not listed in {SUMS}: it is not part of the export; remove it, or copy the'
      ' folder again'
    )


def files_read(folder: Path, components: Sequence[str] = COMPONENTS) -> list[Path]:
  """Return the sorted files of an exported folder that may be read.

  These are `model_index.json` and all files in the folders of the components, except hidden files.

  Raises:
    InputError: if a symbolic link replaces a folder, or leads out of the folder.
  """
  found = [folder / INDEX]
  for component in components:
    if (folder / component).is_symlink():
      raise InputError(f'{folder / component} is a link to a folder: put the folder itself there')
    for root, folders, files in os.walk(folder / component):
      for name in folders:
        if (linked := Path(root, name)).is_symlink():
          raise InputError(f'{linked} is a link to a folder: put the folder itself there')
      found += [Path(root, name) for name in files if not name.startswith('.')]
  for path in found:
    check_links(folder, path)
  return sorted(found)


def _digest(path: Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
