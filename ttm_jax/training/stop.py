"""Stop a run on SIGTERM or SIGINT after a step, the same step in all processes."""

import signal

import jax
from jax.experimental import multihost_utils


class StopOnSignal:
  """A context manager that records the first signal; the second one raises KeyboardInterrupt.

  In a job of several processes SIGTERM is left to JAX's preemption service, which makes all
  processes agree on a step.
  """

  def __init__(self) -> None:
    self._alone = jax.process_count() == 1
    self._seen = False

  def after(self, step: int) -> bool:
    """Return whether to stop after this step; call it exactly once per step in every process."""
    return self._seen if self._alone else multihost_utils.reached_preemption_sync_point(step)

  def __enter__(self) -> 'StopOnSignal':
    numbers = (signal.SIGTERM, signal.SIGINT) if self._alone else (signal.SIGINT,)
    self._before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
      signal.signal(number, self._note)
    return self

  def _note(self, number, frame) -> None:
    if self._seen:
      raise KeyboardInterrupt
    self._seen = True
    if not self._alone:
      signal.raise_signal(signal.SIGTERM)

  def __exit__(self, *_) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
