"""What Orbax and TensorStore report when a checkpoint cannot be written."""

import errno
import os
import sys

from absl import logging

# Errors of the file system that the user must fix, such as a full disk.
_REFUSALS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
  errno.EEXIST,
  errno.ENOTDIR,
)


def refusal(error: BaseException | None) -> str:
  """Return why a file could not be written, such as 'no space left on device'.

  The causes of the error are searched too. Return an empty string if none is a known file system
  error (`_REFUSALS`).
  """
  while error is not None:
    for number in _REFUSALS:
      reason = os.strerror(number).lower()
      # TensorStore errors have no errno, only the message.
      if getattr(error, 'errno', None) == number or reason in str(error).lower():
        return reason
    error = error.__cause__ or error.__context__
  return ''


def hush() -> None:
  """Silence the progress logs and repeated failure reports of Orbax; for command line programs."""
  logging.set_verbosity(logging.FATAL)
  before = sys.unraisablehook

  def shown(unraisable: 'sys.UnraisableHookArgs') -> None:
    # When one write fails, the other pending writes each report that their event loop is closed.
    if str(unraisable.exc_value) != 'Event loop is closed':
      before(unraisable)

  sys.unraisablehook = shown
