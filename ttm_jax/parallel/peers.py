"""Values exchanged between the processes of a job, and a common end if one fails or hangs.

JAX's coordination service supervises the processes: each sends it heartbeats, and when those of one
stop, the service aborts all others (exit code 134) with a message that names the lost one. This
module adds what that leaves open: the error message of one process is printed by all, with the same
exit code, and a process that makes no progress ends itself with its traceback.
"""

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
from jax._src import distributed

from ttm_jax.errors import printable

_ERROR = 'ttm_jax/error'  # Key of the first error of the job in the coordination service.
_POLL = 1.0  # Seconds between two looks for that error.
_STDERR = 2  # File descriptor; `sys.stderr` may be replaced by an object without one.


class Peers:
  """The processes of a job, from after `startup.initialize` to `close`; often only this one."""

  def __init__(self, peer_limit: float = 60.0, hang_limit: float = 1800.0):
    """Begin to supervise this process.

    Args:
      peer_limit: seconds that JAX takes to detect a lost process.
      hang_limit: seconds without progress after which this process exits.
    """
    state = distributed.global_state
    self.index, self.count, self._client = state.process_id, state.num_processes, state.client
    self._peer_limit, self._hang_limit = peer_limit, hang_limit
    self._closing = threading.Event()
    self._thread = threading.Thread(target=self._listen, name='peers', daemon=True)
    if self.count > 1:
      self._thread.start()
    self.progress()

  def progress(self) -> None:
    """Report progress; call it more often than every `hang_limit` seconds.

    Otherwise the process prints the tracebacks of its threads and exits with code 1.
    """
    faulthandler.dump_traceback_later(self._hang_limit, exit=True, file=_STDERR)

  def agree(self, name: str, value: Any = None) -> list[Any]:
    """Wait at a barrier for all processes, and exchange a value.

    Args:
      name: name of the barrier; use each name once.
      value: a JSON-serializable value.

    Returns:
      The values of all processes, by index.
    """
    if self.count == 1:
      return [value]
    assert self._client
    self.progress()
    self._client.key_value_set(f'ttm_jax/{name}/{self.index}', json.dumps(value))
    # The limit of `progress` ends the process before this one.
    limit = int(2000 * self._hang_limit)
    keys = [f'ttm_jax/{name}/{i}' for i in range(self.count)]
    values = [json.loads(self._client.blocking_key_value_get(key, limit)) for key in keys]
    self.progress()
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
      self.agree('end')
    except BaseException as error:
      if self.count == 1:
        raise
      code = next((code for kind, code in codes.items() if isinstance(error, kind)), 1)
      if code == 1:
        traceback.print_exc()
      if isinstance(error, jax.errors.JaxRuntimeError):
        # Probably a lost connection to another process: JAX then ends this one, and names that one.
        time.sleep(self._peer_limit + 10)
      sentence = (str(error).strip() or type(error).__name__).splitlines()[0]
      self._closing.set()
      assert self._client
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another process has failed, too.
        told = f'process {self.index}: {sentence}', code
        self._client.key_value_set(_ERROR, json.dumps(told))
      self._exit(sentence, code)
    finally:
      self.close()

  def close(self) -> None:
    """End the supervision."""
    faulthandler.cancel_dump_traceback_later()
    self._closing.set()
    if self._thread.is_alive():
      self._thread.join()

  def _listen(self) -> None:
    """Exit as soon as another process has failed."""
    assert self._client
    while not self._closing.wait(_POLL):
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # None has.
        sentence, code = json.loads(self._client.key_value_try_get(_ERROR))
        self._exit(sentence, code)

  def _exit(self, sentence: str, code: int) -> NoReturn:
    """Print an error message and exit, after all processes have seen it.

    The exit of a process breaks the computations of the others. When process 0 exits, JAX aborts
    them, so it is the last to do so.
    """
    print(f'error: {" ".join(printable(sentence).split())}', file=sys.stderr)
    time.sleep(_POLL * (1.5 if self.index else 4))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
