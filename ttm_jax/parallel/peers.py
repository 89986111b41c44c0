"""Heartbeats, barriers and common shutdown of the processes of a job.

Every process keeps one TCP connection to process 0, from before JAX starts until the end. It
carries heartbeats, values exchanged at barriers, and the error message if a process fails.

A killed process closes its connection, a dead host sends no heartbeats, and a hanging process makes
no progress. In each case process 0 reports that process to all others. All exit with this error
message instead of waiting forever. The loss of process 0 is detected by each process itself.

Only durations of each process's own monotonic clock are used, so host clocks need not agree.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from ttm_jax.errors import printable

LOST = 4  # Exit code if a process of the job died or hangs; the same command resumes the run.

_SENT = 2.0  # Seconds that process 0 waits before exit, so that others receive the error message.


@dataclasses.dataclass
class _Peer:
  """The known state of a process.

  Attributes:
    host: host name.
    heard: monotonic time of its last message, in seconds.
    moved: monotonic time of its last progress, in seconds.
    progress: its count of `Peers.progress` calls.
    doing: its current activity.
    buffer: the incomplete last line received from it.
  """

  host: str
  heard: float
  moved: float
  progress: int = -1
  doing: str = 'start'
  buffer: bytes = b''


class Peers:
  """The connections of one process to the others of its job.

  A background thread reads messages, sends heartbeats and checks the limits. The training thread
  reports progress and waits at barriers. A job of one process only checks its own progress.
  """

  def __init__(
    self,
    index: int = 0,
    count: int = 1,
    lines: dict[int, tuple[socket.socket, str]] | None = None,
    limit: float = 60.0,
    hang_limit: float = 1800.0,
  ):
    """Start the background thread.

    Args:
      index: index of this process.
      count: number of processes.
      lines: connection and host name by process index: for process 0 all others, for the others
        process 0.
      limit: seconds without a heartbeat after which a process is considered dead.
      hang_limit: seconds without progress after which the job is ended.
    """
    self.index, self.count = index, count
    self._limit, self._hang_limit = limit, hang_limit
    self._interval = min(limit / 5, 5.0)
    now = time.monotonic()
    self._lines = {i: line for i, (line, _) in (lines or {}).items()}
    self._peers = {i: _Peer(host, now, now) for i, (_, host) in (lines or {}).items()}
    self._self = _Peer(socket.gethostname(), now, now, 0)
    self._changed = threading.Condition()
    self._sending = threading.Lock()
    self._waiting: dict[str, dict[int, Any]] = {}  # Process 0: values by barrier and process.
    self._deadlines: dict[str, tuple[float, float]] = {}  # Process 0: (deadline, limit) by barrier.
    self._agreed: dict[str, list[Any]] = {}  # Values of completed barriers.
    self._gone: set[int] = set()  # Processes that have left the job.
    self._closing = False
    self._ending = threading.Lock()
    if lines:
      _outlive_abort()
    self._thread = threading.Thread(target=self._watch, name='peers', daemon=True)
    self._thread.start()

  def progress(self, doing: str) -> None:
    """Report progress; call it more often than every `hang_limit` seconds.

    Args:
      doing: the current activity, for error messages.
    """
    self._self.progress += 1
    self._self.moved, self._self.doing = time.monotonic(), doing

  def agree(self, name: str, value: Any = None, limit: float | None = None) -> list[Any]:
    """Wait at a barrier for all processes, and exchange a value.

    If a process does not reach the barrier in time, the job exits with an error that names it.

    Args:
      name: name of the barrier; use each name once.
      value: a JSON-serializable value.
      limit: seconds from the first arrival to the last; by default `hang_limit`.

    Returns:
      The values of all processes, by index.
    """
    if self.count == 1:
      return [value]
    self.progress(f'waiting for the others: {name}')
    self._say(0, {'come': name, 'value': value, 'limit': limit or self._hang_limit})
    with self._changed:
      self._changed.wait_for(lambda: name in self._agreed)
      values = self._agreed.pop(name)
    self.progress(f'going on: {name}')
    return values

  @contextlib.contextmanager
  def together(self, codes: Mapping[type[BaseException], int]) -> Iterator[None]:
    """Run a block in all processes: all wait at its end, or all exit with the error of one.

    In a job of one process, errors propagate.

    Args:
      codes: exit codes by exception type, for errors whose message is enough. Other errors exit
        with code 1 and print their traceback.
    """
    try:
      yield
    except BaseException as error:
      if self.count == 1:
        raise
      code = next((code for kind, code in codes.items() if isinstance(error, kind)), 1)
      if code == 1:
        # If another process caused this error, its message ends this process during the sleep.
        time.sleep(min(self._limit, 10.0))
        traceback.print_exc()
      lines = str(error).strip().splitlines()
      self.fail(lines[0] if lines else type(error).__name__, code)
    self.agree('end')
    self.close()

  def fail(self, sentence: str, code: int) -> NoReturn:
    """Exit all processes of the job.

    Args:
      sentence: the error message.
      code: the exit code.
    """
    self._end(sentence, code, self.index)

  def close(self) -> None:
    """Leave the job: close the connections, so that the others do not report a lost process."""
    with self._changed:
      self._closing = True
    for i in list(self._lines):
      with contextlib.suppress(OSError):
        self._say(i, {'bye': True})
    self._thread.join(2 * self._interval)
    for line in self._lines.values():
      line.close()

  # The methods below run in the background thread. `_say`, `_end`, and `_handle` for messages to
  # this process itself also run in the training thread.

  def _watch(self) -> None:
    """Read messages, send heartbeats and check the limits, until `close`."""
    with selectors.DefaultSelector() as selector:
      for i, line in self._lines.items():
        selector.register(line, selectors.EVENT_READ, i)
      tick = last = time.monotonic()
      told = 0.0
      while not self._closing:
        for key, _ in selector.select(min(self._interval / 2, 0.5)):
          if not self._read(key.data):
            selector.unregister(key.fileobj)
        now = time.monotonic()
        if now - last > max(self._interval * 2, 5.0):
          # This process was suspended, so it could not receive heartbeats: restart the limits.
          for peer in (*self._peers.values(), self._self):
            peer.heard, peer.moved = now, peer.moved + now - last
        last = now
        if now - told >= self._interval:
          told = now
          for i in list(self._lines):
            self._say(i, {'progress': self._self.progress, 'doing': self._self.doing})
        if now - tick >= self._interval / 2:
          tick = now
          self._judge(now)

  def _read(self, i: int) -> bool:
    """Handle the messages received from a process; return whether the connection is still open."""
    peer = self._peers[i]
    try:
      data = self._lines[i].recv(1 << 16)
    except OSError:
      data = b''
    if not data:
      if i not in self._gone and not self._closing:
        self._gone.add(i)
        self._end(f'process {i} ({peer.host}) is gone: it was killed or crashed', LOST, i)
      return False
    peer.heard = time.monotonic()
    *lines, peer.buffer = (peer.buffer + data).split(b'\n')
    for line in lines:
      self._handle(i, json.loads(line))
    return True

  def _handle(self, i: int, message: dict[str, Any]) -> None:
    """Handle a message of process `i`."""
    if 'progress' in message:
      peer = self._peers[i]
      if message['progress'] != peer.progress:
        peer.progress, peer.moved = message['progress'], time.monotonic()
      peer.doing = message['doing']
    elif 'come' in message:
      self._meet(i, message['come'], message['value'], message['limit'])
    elif 'agreed' in message:
      with self._changed:
        self._agreed[message['agreed']] = message['values']
        self._changed.notify_all()
    elif 'end' in message:
      self._end(message['end'], message['code'], message['of'])
    elif 'bye' in message:
      self._gone.add(i)

  def _meet(self, i: int, name: str, value: Any, limit: float) -> None:
    """Record in process 0 that process `i` has reached a barrier; release it if all have."""
    with self._changed:
      came = self._waiting.setdefault(name, {})
      came[i] = value
      self._deadlines.setdefault(name, (time.monotonic() + limit, limit))
      if len(came) < self.count:
        return
      values = [came[j] for j in range(self.count)]
      del self._waiting[name], self._deadlines[name]
      self._agreed[name] = values
      self._changed.notify_all()
    for j in list(self._lines):
      self._say(j, {'agreed': name, 'values': values})

  def _judge(self, now: float) -> None:
    """End the job if a process is dead, misses a barrier, or hangs."""
    for i, peer in self._peers.items():
      if i not in self._gone and now - peer.heard > self._limit:
        self._end(
          f'process {i} ({peer.host}) has given no sign of life for {self._limit:g} seconds: its'
          ' host or its network is down, or it was stopped',
          LOST,
          i,
        )
    with self._changed:
      late = [(name, limit) for name, (end, limit) in self._deadlines.items() if now > end]
      missing = [
        (name, limit, sorted(set(range(self.count)) - set(self._waiting[name])))
        for name, limit in late
      ]
    for name, limit, who in missing:
      at = (self._peers.get(who[0]) or self._self).doing
      self._end(
        f'{self._named(who)} did not come to "{name}" within {limit:g} seconds: {at}', LOST, -1
      )
    # Process 0 knows the progress of all processes, the others only their own. These wait longer,
    # so that the better message of process 0 comes first.
    everybody = {self.index: self._self, **(self._peers if self.index == 0 else {})}
    patience = self._hang_limit + (2 * self._limit if self.index else 0)
    if not self._gone and any(now - p.moved > patience for p in everybody.values()):
      # A hanging process blocks the others, so it is the one with the least progress.
      least = min(p.progress for p in everybody.values())
      who = [i for i, p in everybody.items() if p.progress == least]
      self._end(
        f'nothing has gone on for {patience:g} seconds; least far is {self._named(who)}:'
        f' {everybody[who[0]].doing}',
        LOST,
        -1,
      )

  def _named(self, who: list[int]) -> str:
    return ', '.join(
      f'process {i} ({(self._self if i == self.index else self._peers[i]).host})' for i in who
    )

  def _say(self, i: int, message: dict[str, Any]) -> None:
    """Send a message to process `i`; handle it directly if that is this process."""
    if i == self.index:
      self._handle(i, message)
      return
    try:
      with self._sending:
        self._lines[i].sendall(json.dumps(message).encode() + b'\n')
    except OSError:
      pass  # The reading thread detects the closed connection.

  def _end(self, sentence: str, code: int, of: int) -> NoReturn:
    """Send an error to all connected processes, print it and exit.

    Args:
      sentence: the error message.
      code: the exit code.
      of: index of the process with the error; -1 if the message names the processes.
    """
    with self._ending:
      for i in self._lines:
        self._say(i, {'end': sentence, 'code': code, 'of': of})
        with contextlib.suppress(OSError):
          self._lines[i].shutdown(socket.SHUT_WR)
      begun = f'process {of}: ' if of not in (-1, self.index) and code != LOST else ''
      again = '; the same command continues the run' if code == LOST else ''
      print(f'error: {" ".join(printable(begun + sentence).split())}{again}', file=sys.stderr)
      sys.stdout.flush()
      sys.stderr.flush()
      if self.index == 0:
        # JAX aborts the others as soon as process 0 exits, so let them read the message first.
        end = time.monotonic() + _SENT
        for line in self._lines.values():
          _drain(line, end)
      os._exit(code)


def _drain(line: socket.socket, end: float) -> None:
  """Read a connection until it is closed, or until monotonic time `end`."""
  with contextlib.suppress(OSError):
    while (left := end - time.monotonic()) > 0:
      line.settimeout(left)
      if not line.recv(1 << 16):
        return


def _outlive_abort() -> None:
  """Delay an abort of this process by six seconds, so that it can print the error message first.

  When process 0 exits, JAX calls `abort` in the other processes immediately. Its output does not
  say which process was lost. This sets the C function `sleep` as the SIGABRT handler. It is called
  with the signal number, 6, so the aborting thread sleeps six seconds first.
  """
  libc = ctypes.CDLL(None)
  libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
