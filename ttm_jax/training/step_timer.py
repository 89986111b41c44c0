"""Non-blocking timing of steps on the device, and of the time the device waits for data.

The host dispatches a step and continues; a thread waits for each result and records the time. A
step lasts from its start (when its batch is ready, or when the previous step ends, whichever is
later) to its end. The device waits for data from the end of one step until the next batch is ready.
Only the time that the host spends waiting for that batch counts.

The host runs at most `AHEAD` steps ahead. The device then always has a next step queued, and
signals, errors and log lines are handled at most that many steps late.
"""

import queue
import threading
import time
from typing import Any

import jax

AHEAD = 2  # Steps that may be dispatched but not finished.


class StepTimer:
  """Measures the durations of consecutive steps.

  Call `begin`, `got_data` and `handed_over` once per step, in this order.
  """

  def __init__(self) -> None:
    self._free = threading.Semaphore(AHEAD)
    self._queue: queue.SimpleQueue = queue.SimpleQueue()
    self._lock = threading.Lock()
    self._durations: list[float] = []
    self._starved = 0.0
    self._done = float('inf')  # End of the last step; inf at the start and after a pause.
    self._compiled = False  # The first step includes compilation and is not counted.
    self._error: BaseException | None = None
    self._asked = self._got = 0.0
    self._thread = threading.Thread(target=self._wait, name='clock', daemon=True)
    self._thread.start()

  def begin(self) -> None:
    """Start a step, before its batch is requested; block while the host is `AHEAD` steps ahead.

    Raises:
      Exception: raised by an earlier step on the device.
    """
    self._free.acquire()
    self._raise()
    self._asked = time.perf_counter()

  def got_data(self) -> None:
    """Record that the batch is ready."""
    self._got = time.perf_counter()

  def handed_over(self, result: Any) -> None:
    """Record that the step was dispatched.

    Args:
      result: output arrays of the step, which must not be donated later.
    """
    self._queue.put((self._asked, self._got, result))

  def settle(self) -> None:
    """Wait until all dispatched steps are done.

    Raises:
      Exception: raised by a step on the device.
    """
    for _ in range(AHEAD):
      self._free.acquire()
    self._free.release(AHEAD)
    self._raise()

  def read(self) -> tuple[list[float], float]:
    """Return the durations of the steps since the last call, and the total wait for data, in s."""
    with self._lock:
      found = self._durations, self._starved
      self._durations, self._starved = [], 0.0
    return found

  def pause(self) -> None:
    """Exclude the time until the next step, for example evaluation; call it after `settle`."""
    with self._lock:
      self._done = float('inf')

  def close(self) -> None:
    """End the thread."""
    self._queue.put(None)
    self._thread.join(1.0)

  def _raise(self) -> None:
    if self._error is not None:
      raise self._error

  def _wait(self) -> None:
    while (item := self._queue.get()) is not None:
      asked, got, result = item
      try:
        jax.block_until_ready(result)
      except Exception as error:
        self._error = error
      now = time.perf_counter()
      with self._lock:
        if self._done <= now:
          self._starved += max(0.0, got - max(asked, self._done))
          self._durations.append(now - max(got, self._done))
        elif self._compiled:  # The first after a pause.
          self._durations.append(now - got)
        self._done, self._compiled = now, True
      self._free.release()
