"""Record a JAX profiler trace of some steps, to view with xprof or TensorBoard."""

import re

import jax
from etils import epath

from ttm_jax.errors import InputError
from ttm_jax.training.step_timer import StepTimer

FOLDER = 'profile'


class Profile:
  """Traces the steps N to M of this process; does nothing for an empty string."""

  def __init__(self, steps: str, workdir: epath.Path, clock: StepTimer):
    """Parse the range of steps.

    Args:
      steps: 'N:M', the first and the last step, or ''.
      workdir: the run directory; the trace is written to its subfolder `profile`.
      clock: used to wait for pending steps before and after the trace.

    Raises:
      InputError: if `steps` is anything else.
    """
    found = re.fullmatch(r'(\d+):(\d+)', steps)
    if steps and not (found and 1 <= int(found[1]) <= int(found[2])):
      raise InputError(f'--profile takes the first and the last step as N:M, got {steps!r}')
    self._first, self._last = (int(found[1]), int(found[2])) if found else (0, 0)
    self._folder, self._clock = workdir / FOLDER, clock
    self._running = False

  def before(self, step: int) -> None:
    """Start the trace if `step` is the first; call it before the step is dispatched."""
    if step == self._first:
      self._clock.settle()
      jax.profiler.start_trace(str(self._folder))
      self._running = True

  def after(self, step: int) -> None:
    """Stop the trace if `step` is the last; call it after the step was dispatched."""
    if self._running and step >= self._last:
      self.close()

  def close(self) -> None:
    """Stop a running trace and write it."""
    if self._running:
      self._running = False
      self._clock.settle()
      jax.profiler.stop_trace()
