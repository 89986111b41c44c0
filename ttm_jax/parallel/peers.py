"""The other processes of a job: whether they live, where they wait, and how one ends them all.

Every process keeps one TCP connection to process 0, from before JAX starts until the end. Over it
go signs of life, what the processes agree on, and the reason where one of them gives up. A process
that is killed closes its connection, one whose host dies falls silent, one that hangs makes no
progress: in each case process 0 names it to all, and all end with that sentence in place of waiting
for it for ever. If process 0 is the one, each sees it by itself.

Only durations by each process's own monotonic clock count; what the clocks of the hosts show does
not matter.
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

LOST = 4  # Exit code: a process of the job is gone, or hangs; the same command continues the run.

_SENT = 2.0  # Seconds that a process which ends waits for others to read why.


@dataclasses.dataclass
class _Peer:
  """What this process knows of another one.

  Attributes:
    host: its name.
    heard, moved: when it last gave a sign of life, and when its work last went on.
    progress: how often that went on.
    doing: what it does.
    buffer: of its words, what has come of an unfinished line.
  """

  host: str
  heard: float
  moved: float
  progress: int = -1
  doing: str = 'start'
  buffer: bytes = b''


class Peers:
  """The processes of a job, seen from one of them; alone, it only watches over itself.

  Threads: one reads and watches; the training thread reports progress and waits for agreement.
  """

  def __init__(
    self,
    index: int = 0,
    count: int = 1,
    lines: dict[int, tuple[socket.socket, str]] | None = None,
    limit: float = 60.0,
    hang_limit: float = 1800.0,
  ):
    """Args:
    index: of this process.
    count: of all.
    lines: connection and host by index of process: for process 0 those to all others, else that
      to process 0.
    limit: seconds without a sign of life after which a process counts as dead.
    hang_limit: seconds without progress after which the job ends.
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
    self._waiting: dict[str, dict[int, Any]] = {}  # Of process 0: who has come, with what.
    self._deadlines: dict[str, tuple[float, float]] = {}
    self._agreed: dict[str, list[Any]] = {}
    self._gone: set[int] = set()  # Those that said goodbye.
    self._closing = False
    self._ending = threading.Lock()
    if lines:
      _outlive_abort()
    self._thread = threading.Thread(target=self._watch, name='peers', daemon=True)
    self._thread.start()

  def progress(self, doing: str) -> None:
    """Tells that the work goes on; to be called more often than every `hang_limit` seconds."""
    self._self.progress += 1
    self._self.moved, self._self.doing = time.monotonic(), doing

  def agree(self, name: str, value: Any = None, limit: float | None = None) -> list[Any]:
    """Waits until all processes are here, and tells what each of them brought.

    Args:
      name: of this meeting; used once.
      value: something JSON can hold.
      limit: seconds from the first arrival to the last, by default `hang_limit`. Then the job ends,
        and the missing ones are named.

    Returns:
      The values, by index of process.
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
    """What all processes do together: they come to its end together, or end together with an error.

    A process that is alone lets errors through.

    Args:
      codes: exit codes of the errors that one sentence tells all about.
    """
    try:
      yield
    except BaseException as error:
      if self.count == 1:
        raise
      code = next((code for kind, code in codes.items() if isinstance(error, kind)), 1)
      if code == 1:
        # Where another process was the cause, the sentence that says so ends this one meanwhile.
        time.sleep(min(self._limit, 10.0))
        traceback.print_exc()
      lines = str(error).strip().splitlines()
      self.fail(lines[0] if lines else type(error).__name__, code)
    self.agree('end')
    self.close()

  def fail(self, sentence: str, code: int) -> NoReturn:
    """Ends all processes of the job, this one first of all: with a sentence and an exit code."""
    self._end(sentence, code, self.index)

  def close(self) -> None:
    """Says goodbye. From then on the others may end."""
    with self._changed:
      self._closing = True
    for i in list(self._lines):
      with contextlib.suppress(OSError):
        self._say(i, {'bye': True})
    self._thread.join(2 * self._interval)
    for line in self._lines.values():
      line.close()

  # What follows runs in the thread that watches, but for `_say`, `_handle` of oneself, and `_end`.

  def _watch(self) -> None:
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
          # This process was held still: what it did not hear meanwhile counts for nothing.
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
    """Reads what has come from a process; whether more may come."""
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
    """Process 0: somebody has come to a meeting."""
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
    """Ends the job where a process is dead, too late, or hangs."""
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
    # Process 0 knows of all, the others of themselves only: they leave it the time to speak first.
    everybody = {self.index: self._self, **(self._peers if self.index == 0 else {})}
    patience = self._hang_limit + (2 * self._limit if self.index else 0)
    if not self._gone and any(now - p.moved > patience for p in everybody.values()):
      # One that hangs holds up the others: it is the one that has come least far.
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
    if i == self.index:
      self._handle(i, message)
      return
    try:
      with self._sending:
        self._lines[i].sendall(json.dumps(message).encode() + b'\n')
    except OSError:
      pass  # Whoever reads from that line finds its end.

  def _end(self, sentence: str, code: int, of: int) -> NoReturn:
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
        # Without process 0, JAX ends the others at once: they shall first have read the sentence.
        end = time.monotonic() + _SENT
        for line in self._lines.values():
          _drain(line, end)
      os._exit(code)


def _drain(line: socket.socket, end: float) -> None:
  """Reads a connection to its end, or until a moment."""
  with contextlib.suppress(OSError):
    while (left := end - time.monotonic()) > 0:
      line.settimeout(left)
      if not line.recv(1 << 16):
        return


def _outlive_abort() -> None:
  """Gives this process six seconds to tell the reason before JAX aborts it.

  When process 0 is gone, JAX calls `abort` in the others in the same instant, and the page that it
  prints names nobody. Here the handler of SIGABRT is the C function `sleep`, called with the number
  of the signal: the thread that aborts sleeps six seconds first.
  """
  libc = ctypes.CDLL(None)
  libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
