"""How long steps take on the device, and how long it waits for data; without holding it up.

The host hands over a step and goes on; a thread waits for each step's result and notes the moment.
So what is measured is the device's time: of a step, from its beginning (when it was handed over, or
when the one before was done) to its end; of waiting, from the end of one step to the handing over
of the next, as far as the host was then itself waiting for its batch.

The host may be no more than `AHEAD` steps ahead: then the device always has a next step at hand,
and yet a signal, an error or a log line is never further away than that.
"""

import queue
import threading
import time
from typing import Any

import jax

AHEAD = 2


class StepTimer:
  """Times steps, one after the other.

  A step is: `begin`, `got_data`, `handed_over`.
  """

  def __init__(self) -> None:
    self._free = threading.Semaphore(AHEAD)
    self._queue: queue.SimpleQueue = queue.SimpleQueue()
    self._lock = threading.Lock()
    self._durations: list[float] = []
    self._starved = 0.0
    self._done = float('inf')  # When the last step was done, where that tells anything.
    self._compiled = False  # The first step of all is compiled before it runs: it counts nowhere.
    self._error: BaseException | None = None
    self._asked = self._got = 0.0
    self._thread = threading.Thread(target=self._wait, name='clock', daemon=True)
    self._thread.start()

  def begin(self) -> None:
    """Before the batch of a step is asked for; waits until the device is near.

    Raises:
      Exception: what a step before raised on the device.
    """
    self._free.acquire()
    self._raise()
    self._asked = time.perf_counter()

  def got_data(self) -> None:
    """When the batch is there."""
    self._got = time.perf_counter()

  def handed_over(self, result: Any) -> None:
    """When the step was handed to the device.

    Args:
      result: arrays that are there when it is done, and that nobody donates.
    """
    self._queue.put((self._asked, self._got, result))

  def settle(self) -> None:
    """Waits until all steps are done.

    Raises:
      Exception: what a step raised on the device.
    """
    for _ in range(AHEAD):
      self._free.acquire()
    self._free.release(AHEAD)
    self._raise()

  def read(self) -> tuple[list[float], float]:
    """Durations of the steps that were done since the last call, and the wait for data, in s."""
    with self._lock:
      found = self._durations, self._starved
      self._durations, self._starved = [], 0.0
    return found

  def pause(self) -> None:
    """What the device does until the next step is no step, nor does it wait for data."""
    with self._lock:
      self._done = float('inf')

  def close(self) -> None:
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
