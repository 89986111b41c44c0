"""One queue for the jobs of all users: one job runs at a time, the others wait in turn."""

import dataclasses
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ttm_jax.errors import InputError, printable
from ttm_jax.studio.backends import Cancelled, Progress

MOST_WAITING = 64
MOST_OF_ONE = 4

WAITING, RUNNING, DONE, FAILED, CANCELLED = 'waiting', 'running', 'done', 'failed', 'cancelled'
_log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Job:
  """Something that takes long.

  Attributes:
    id: Its number.
    owner: The session that waits for it.
    what: What it does, in words.
    work: Does it, given a function to call with its progress.
    status: `WAITING`, `RUNNING`, `DONE`, `FAILED` or `CANCELLED`.
    done: Steps done.
    total: Steps in all; 0 if not known yet.
    message: Why it failed.
    seconds: How long it has run.
    result: What `work` returned.
  """

  id: int
  owner: str
  what: str
  work: Callable[[Progress], Any]
  status: str = WAITING
  done: int = 0
  total: int = 0
  message: str = ''
  seconds: float = 0.0
  result: Any = None
  stop: threading.Event = dataclasses.field(default_factory=threading.Event)

  @property
  def is_over(self) -> bool:
    """Whether it neither waits nor runs."""
    return self.status in (DONE, FAILED, CANCELLED)


class Queue:
  """Runs jobs in a thread, in the order in which they were added."""

  def __init__(self, time_limit: float):
    """Start the thread; `time_limit` is the most seconds that a job may run."""
    self._time_limit = time_limit
    self._waiting: deque[Job] = deque()
    self._running: Job | None = None
    self._numbers = itertools.count(1)
    self._changed = threading.Condition()
    self._closed = False
    self._thread = threading.Thread(target=self._run, name='studio jobs', daemon=True)
    self._thread.start()

  def add(self, owner: str, what: str, work: Callable[[Progress], Any]) -> Job:
    """Add a job.

    Raises:
      InputError: If the queue is full, or has too many jobs of this owner.
    """
    with self._changed:
      mine = sum(job.owner == owner for job in self._all())
      if mine >= MOST_OF_ONE:
        raise InputError(f'{mine} jobs of yours are in the queue: wait for one, or cancel it')
      if len(self._waiting) >= MOST_WAITING:
        raise InputError(f'{MOST_WAITING} jobs are waiting: try again later')
      job = Job(next(self._numbers), owner, what, work)
      self._waiting.append(job)
      self._changed.notify_all()
      return job

  def position(self, job: Job) -> int:
    """Return how many jobs will run before a job."""
    with self._changed:
      before = self._all()
      return before.index(job) if job in before else 0

  def cancel(self, job: Job) -> None:
    """Cancel a job; one that runs ends after its current step."""
    with self._changed:
      job.stop.set()
      if job in self._waiting:
        self._waiting.remove(job)
        job.status = CANCELLED

  def cancel_all(self, owner: str) -> None:
    """Cancel the jobs of an owner."""
    for job in self._all():
      if job.owner == owner:
        self.cancel(job)

  def close(self) -> None:
    """Cancel all jobs and end the thread after the current step."""
    with self._changed:
      self._closed = True
      for job in self._all():
        self.cancel(job)
      self._changed.notify_all()
    self._thread.join(timeout=30)

  def _all(self) -> list[Job]:
    return [*([self._running] if self._running else []), *self._waiting]

  def _run(self) -> None:
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._waiting or self._closed)
        if self._closed:
          return
        job = self._running = self._waiting.popleft()
        job.status = RUNNING
      status, message = self._work(job)
      with self._changed:
        job.status, job.message, self._running = status, message, None

  def _work(self, job: Job) -> tuple[str, str]:
    """Run a job and return its status and message; no error of it ends the thread."""
    start = time.monotonic()
    late = False

    def progress(done: int, total: int) -> None:
      nonlocal late
      job.done, job.total, job.seconds = done, total, time.monotonic() - start
      late = job.seconds > self._time_limit
      if job.stop.is_set() or late:
        raise Cancelled

    try:
      job.result = job.work(progress)
      return DONE, ''
    except Cancelled:
      limit = f'it took longer than the {self._time_limit:g} seconds that a job may take here'
      return (FAILED, f'{job.what} was stopped: {limit}') if late else (CANCELLED, '')
    except InputError as error:
      return FAILED, printable(error)
    except MemoryError:
      return FAILED, f'{job.what} ran out of memory: try fewer steps, or a smaller model'
    except Exception as error:
      _log.exception('%s failed', job.what)
      first = (str(error).strip().splitlines() or [''])[0][:200]
      reason = f'{type(error).__name__}: {first}' if first else type(error).__name__
      return FAILED, f'{job.what} failed ({printable(reason)}). Your project is unchanged.'
    finally:
      job.seconds = time.monotonic() - start
