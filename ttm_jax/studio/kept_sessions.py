"""Projects of sessions on disk, so that a page finds its project again after a restart.

WORK/sessions/DIGEST/project.ttm.zip    the project file of a session

DIGEST is a digest of the session's token, so that the names of the folders let nobody into a
session. The folders are readable by their owner only. Proposals and videos are not kept.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ttm_jax.atomic import write_bytes
from ttm_jax.errors import InputError
from ttm_jax.studio.backends import Limits
from ttm_jax.studio.project import Project
from ttm_jax.studio.project_file import SUFFIX, load, packer
from ttm_jax.studio.sessions import Session

MOST_KEPT = 256
KEPT_DAYS = 14
EVERY = 2.0  # Seconds between looks at what has changed.
_FILE = f'project{SUFFIX}'
_log = logging.getLogger(__name__)


class KeptSessions:
  """Writes the projects of sessions to a folder, and reads them after a restart."""

  def __init__(self, work: str | os.PathLike[str], limits: Limits):
    """Make the folder, and remove what is too old.

    Args:
      work: Work folder of the studio.
      limits: What the networks can generate; projects of other sizes are not read.

    Raises:
      InputError: If the folder cannot be written.
    """
    self._folder, self._limits = Path(work).expanduser() / 'sessions', limits
    self._kept: dict[str, Any] = {}  # By token: what was written last.
    self._writing = threading.Lock()
    self._closed = threading.Event()
    self._thread: threading.Thread | None = None
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      self._folder.chmod(0o700)
      self._prune(MOST_KEPT)
    except OSError as error:
      raise InputError(
        f'cannot keep sessions in {self._folder} ({error.strerror}): give another --work, or --work'
        ' off'
      ) from error

  def watch(self, sessions: Callable[[], Iterable[Session]]) -> None:
    """Write the projects that change, in a thread, until `close` is called."""

    def work() -> None:
      over = False
      while not over:
        over = self._closed.wait(EVERY)
        for session in sessions():
          self.keep(session)

    self._thread = threading.Thread(target=work, name='studio sessions', daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Write what has changed, and end the thread."""
    self._closed.set()
    if self._thread is not None:
      self._thread.join(timeout=30)

  def keep(self, session: Session) -> None:
    """Write the project of a session if it has changed; a full disk is logged."""
    with self._writing:
      with session.lock:
        project = session.project
        if project.is_empty:
          return
        now = project.scene, project.caption, project.motion, dict(project.things)
        if self._kept.get(session.token) == now:
          return
        pack = packer(project)
      place = self._place(session.token)
      try:
        if not place.parent.is_dir():
          self._prune(MOST_KEPT - 1)
          place.parent.mkdir(mode=0o700)
        write_bytes(place, pack())
      except OSError as error:
        _log.warning('a session was not kept in %s: %s', self._folder, error.strerror)
      else:
        os.utime(place.parent)
        self._kept[session.token] = now

  def read(self, token: str) -> Project | None:
    """Return the project of a session before the restart; None if it cannot be read."""
    place = self._place(token)
    try:
      project = load(place.read_bytes(), self._limits)
    except OSError:
      return None
    except InputError as error:
      _log.warning('a kept session cannot be opened: %s', error)
      return None
    os.utime(place.parent)
    return project

  def forget(self, token: str) -> None:
    """Free what is remembered of a session that is no longer in memory; its file stays."""
    self._kept.pop(token, None)

  def _place(self, token: str) -> Path:
    return self._folder / hashlib.sha256(token.encode()).hexdigest() / _FILE

  def _prune(self, most: int) -> None:
    """Remove the sessions that are too old, and the oldest ones beyond `most`."""
    dated = []
    for folder in self._folder.iterdir():
      with contextlib.suppress(FileNotFoundError):  # Another studio has removed it.
        dated.append((folder.stat().st_mtime, folder))
    dated.sort(reverse=True)
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for number, (used, folder) in enumerate(dated):
      if number >= most or used < oldest:
        shutil.rmtree(folder, ignore_errors=True)
