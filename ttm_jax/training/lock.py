"""A lease that allows one job at a time in a run directory.

The file `in_use.json` names the job that trains there, which rewrites it every `RENEW` seconds.
Locks of the operating system are not used: they do not work on `gs://` nor on every shared disk.

A job that finds the file checks whether its owner is alive. On the same machine it looks for the
owner's process. Otherwise it waits up to `LEASE` seconds for the file to change. A lease left by a
killed job or a dead machine is taken over. The clocks of the machines need not agree.

An owner that was suspended until another job took over raises in `check`, before it saves.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from etils import epath

from ttm_jax.errors import InputError, printable

FILE = 'in_use.json'
RENEW = 10.0  # Seconds between two writes by the owner.
LEASE = 60.0  # Seconds without a change after which the owner is considered dead.


class Lock:
  """Exclusive use of a run directory, from `acquire` to `release`.

  A daemon thread renews the lease.
  """

  def __init__(self, workdir: epath.Path, renew: float = RENEW, lease: float = LEASE):
    """Prepare a lease without taking it.

    Args:
      workdir: the run directory, local or on gs://.
      renew: seconds between two writes.
      lease: seconds without a change after which another owner is considered dead.
    """
    self._path = workdir / FILE
    self._renew, self._lease = renew, lease
    self._token = uuid.uuid4().hex
    self._count, self._made = 0, False
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._keep, name='lock', daemon=True)

  def acquire(self, say: Callable[[str], None] = lambda text: None) -> None:
    """Take the lease; create the directory if it does not exist.

    Args:
      say: called with a message if this has to wait, or takes over from a dead job.

    Raises:
      InputError: if another job trains in the directory.
    """
    found = self._read()
    if found is not None:
      self._wait_for_its_end(found, say)
    self._made = not self._path.parent.exists()
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._write()
    self.check()
    self._thread.start()

  def check(self) -> None:
    """Check that this job still holds the lease; call it before writes such as a checkpoint.

    Raises:
      InputError: if another job has taken the directory.
    """
    found = self._read()
    if found is not None and found.get('token') != self._token:
      raise self._refusal(found)

  def release(self) -> None:
    """Release the lease; remove the directory if `acquire` created it and it is empty."""
    self._stop.set()
    if self._thread.is_alive():
      self._thread.join()
    with contextlib.suppress(Exception):
      self.check()
      self._path.unlink(missing_ok=True)
      if self._made:
        self._path.parent.rmdir()  # Fails if it is not empty.

  def _wait_for_its_end(self, found: dict[str, Any], say: Callable[[str], None]) -> None:
    """Return if the owner of a lease is dead; raise InputError if it is alive."""
    lives = _lives(found)
    if lives:
      raise self._refusal(found)
    if lives is None:
      say(
        f'{self._path.parent} was in use on {_host(found)}: seeing for {self._lease:g} seconds'
        ' whether it still is'
      )
      end = time.monotonic() + self._lease
      while time.monotonic() < end:
        time.sleep(min(self._renew / 2, 1.0))
        now = self._read()
        if now is None:
          return
        if now != found:
          raise self._refusal(now)
    say(f'{self._path.parent}: the job on {_host(found)} that was here is dead')

  def _refusal(self, found: dict[str, Any]) -> InputError:
    return InputError(
      f'{self._path.parent} is in use by another job, on {_host(found)} (process'
      f' {found.get("pid", "unknown")}): wait for its end, or choose another --workdir'
    )

  def _keep(self) -> None:
    while not self._stop.wait(self._renew):
      # A temporary disk error must not end the run; `check` reports a lost lease.
      with contextlib.suppress(Exception):
        self.check()
        self._write()

  def _write(self) -> None:
    self._count += 1
    text = json.dumps({'token': self._token, 'count': self._count, **_identity(os.getpid())})
    partial = self._path.with_name(f'.{FILE}.{self._token}')
    partial.write_text(text)
    partial.replace(self._path)

  def _read(self) -> dict[str, Any] | None:
    """Return the content of the lease file: None if there is none, {} if it is corrupt."""
    try:
      found = json.loads(self._path.read_text())
    except (FileNotFoundError, NotADirectoryError):
      return None
    except IsADirectoryError as error:
      raise InputError(
        f'{self._path} is a folder: remove it, or choose another --workdir'
      ) from error
    except (ValueError, RecursionError):
      return {}
    return found if isinstance(found, dict) else {}


def _identity(pid: int) -> dict[str, Any]:
  """Return fields that identify a process uniquely across machines, reboots and reused PIDs."""
  return {'host': socket.gethostname(), 'pid': pid, 'machine': _machine(), 'begun': _begun(pid)}


def _host(found: dict[str, Any]) -> str:
  return printable(found.get('host', 'an unknown host'))


def _lives(found: dict[str, Any]) -> bool | None:
  """Return whether the owner's process still runs; None if it is on another machine."""
  machine, pid = _machine(), found.get('pid')
  if not machine or found.get('machine') != machine or not isinstance(pid, int):
    return None
  return _begun(pid) == found.get('begun')


def _machine() -> str:
  """Return an id of this boot of the machine and PID namespace; empty if not available."""
  with contextlib.suppress(OSError), open('/proc/sys/kernel/random/boot_id') as file:
    return f'{file.read().strip()} {os.readlink("/proc/self/ns/pid")}'
  return ''


def _begun(pid: int) -> str:
  """Return the start time of a process in ticks since boot; empty if it is dead or a zombie."""
  with contextlib.suppress(OSError), open(f'/proc/{pid}/stat') as file:
    # The process name is in parentheses and may contain spaces or parentheses itself.
    state, *rest = file.read().rpartition(')')[2].split()
    return '' if state in 'ZX' else rest[18]
  return ''
