"""A lock that allows one job at a time in a run directory.

It is a lock of the operating system on the file `in_use.lock`, which ends with the process, however
that ends. There are no such locks on gs://: there the user must not start a run twice.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock
from etils import epath

from ttm_jax.data.storage import is_local
from ttm_jax.errors import InputError

FILE = 'in_use.lock'


@contextlib.contextmanager
def exclusive(workdir: epath.Path) -> Iterator[None]:
  """Hold the lock of a run directory; create the directory if it does not exist.

  Afterwards remove the file, and the directory if this created it and it is empty.

  Raises:
    InputError: if another job trains in the directory.
  """
  if not is_local(workdir):
    yield
    return
  path = Path(workdir) / FILE
  made = not path.parent.exists()
  path.parent.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(path, timeout=0)
  try:
    lock.acquire()
  except filelock.Timeout as error:
    raise InputError(
      f'{workdir} is in use by another job: wait for its end, or choose another --workdir'
    ) from error
  try:
    yield
  finally:
    path.unlink(missing_ok=True)
    lock.release()
    if made:
      with contextlib.suppress(OSError):
        path.parent.rmdir()  # Fails if it is not empty.
