"""One job at a time in a run directory.

The file `in_use.json` says who trains there. Its owner writes it anew every few seconds; it is no
lock of the operating system, since those do not hold on `gs://` nor on every shared disk. A job
that finds the file looks whether the owner lives: on the same machine by its process, else by
waiting whether the file still changes. So what a killed job or a dead machine leaves is taken over,
at once or after `LEASE` seconds, whatever the clocks of the machines show.

An owner that was held still for so long that another one took over learns it before it saves.
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
RENEW = 10.0  # Seconds between two times that the owner writes.
LEASE = 60.0  # Seconds without a change after which it counts as dead.


class Lock:
  """The right to train in a run directory, from `acquire` to `release`."""

  def __init__(self, workdir: epath.Path, renew: float = RENEW, lease: float = LEASE):
    self._path = workdir / FILE
    self._renew, self._lease = renew, lease
    self._token = uuid.uuid4().hex
    self._count, self._made = 0, False
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._keep, name='lock', daemon=True)

  def acquire(self, say: Callable[[str], None] = lambda text: None) -> None:
    """Takes the directory, which is made where it is missing.

    Args:
      say: is told where that takes long, or where somebody else had it.

    Raises:
      InputError: where another job trains there.
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
    """To be called before what would do harm.

    Raises:
      InputError: where another job has taken the directory.
    """
    found = self._read()
    if found is not None and found.get('token') != self._token:
      raise self._refusal(found)

  def release(self) -> None:
    """Gives the directory free; takes it away again where nothing came into it."""
    self._stop.set()
    if self._thread.is_alive():
      self._thread.join()
    with contextlib.suppress(Exception):
      self.check()
      self._path.unlink(missing_ok=True)
      if self._made:
        self._path.parent.rmdir()  # Unless there is something in it.

  def _wait_for_its_end(self, found: dict[str, Any], say: Callable[[str], None]) -> None:
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
      # A disk that does not answer just now is no reason to end; `check` tells what is.
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
  """Who a process is: no other one has all of this, before or later, here or elsewhere."""
  return {'host': socket.gethostname(), 'pid': pid, 'machine': _machine(), 'begun': _begun(pid)}


def _host(found: dict[str, Any]) -> str:
  return printable(found.get('host', 'an unknown host'))


def _lives(found: dict[str, Any]) -> bool | None:
  """Whether a process still runs; None where that cannot be seen from here."""
  machine, pid = _machine(), found.get('pid')
  if not machine or found.get('machine') != machine or not isinstance(pid, int):
    return None
  return _begun(pid) == found.get('begun')


def _machine() -> str:
  """This boot of this machine, and the container; empty where the system does not tell."""
  with contextlib.suppress(OSError), open('/proc/sys/kernel/random/boot_id') as file:
    return f'{file.read().strip()} {os.readlink("/proc/self/ns/pid")}'
  return ''


def _begun(pid: int) -> str:
  """When a process began, in ticks since the boot; empty where there is none, or it is a zombie."""
  with contextlib.suppress(OSError), open(f'/proc/{pid}/stat') as file:
    # The name in brackets may hold anything.
    state, *rest = file.read().rpartition(')')[2].split()
    return '' if state in 'ZX' else rest[18]
  return ''
