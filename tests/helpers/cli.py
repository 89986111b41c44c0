"""Run the commands of the package, `python -m X`, in subprocesses.

`run` and `start` fork from a server that has imported all libraries but computed nothing. This
saves several seconds of imports per process; the rest is as in `python -m`. `command` returns the
arguments for a fresh process.
"""

import atexit
import dataclasses
import multiprocessing
import os
import runpy
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

_LIBRARIES = [
  'data_tools.encode',
  'ttm_jax.metrics.evaluation',
  'ttm_jax.parallel.startup',
  'ttm_jax.inference.pipeline',
  'ttm_jax.report.results',
  'ttm_jax.settings',
  'ttm_jax.training.codec',
  'ttm_jax.training.denoising',
  'ttm_jax.training.loop',
]
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(_LIBRARIES)


@dataclasses.dataclass(frozen=True)
class Ended:
  """The result of a command.

  Attributes:
    code: exit code.
    out: standard output.
    err: standard error.
  """

  code: int
  out: str
  err: str


class Process:
  """A running command.

  Attributes:
    pid: process id.
  """

  def __init__(self, module: str, arguments: tuple, env: Mapping[str, str], before):
    self._folder = tempfile.TemporaryDirectory(prefix='door')
    self._paths = [os.path.join(self._folder.name, name) for name in ('out', 'err')]
    argv = [module, *map(str, arguments)]
    self._process = _CONTEXT.Process(target=_enter, args=(argv, dict(env), self._paths, before))
    self._process.start()
    self.pid: int = self._process.pid

  @property
  def running(self) -> bool:
    """Whether the command has not ended yet."""
    return self._process.is_alive()

  def wait(self, limit: float = 300) -> Ended:
    """Wait for the command to end; kill it after `limit` seconds."""
    self._process.join(limit)
    if self.running:
      self._process.kill()
      self._process.join()
    out, err = (Path(path).read_text() if os.path.exists(path) else '' for path in self._paths)
    self._folder.cleanup()
    assert self._process.exitcode is not None
    return Ended(self._process.exitcode, out, err)


def start(
  module: str,
  *arguments: object,
  env: Mapping[str, str] = {},
  before: Callable[[], None] | None = None,
) -> Process:
  """Start `python -m module arguments`.

  Args:
    module: name of the module.
    *arguments: command line arguments; converted to strings.
    env: environment variables in addition to those of the tests.
    before: a picklable function, called in the process before the module runs.
  """
  return Process(module, arguments, env, before)


def run(module: str, *arguments: object, **options) -> Ended:
  """Run `python -m module arguments` and return its result; for the options see `start`."""
  return start(module, *arguments, **options).wait()


def command(module: str, *arguments: object) -> list[str]:
  """Return the arguments of `subprocess.run` for `python -m module arguments`."""
  return [sys.executable, '-m', module, *map(str, arguments)]


def elsewhere() -> None:
  """Change to the folder that the variable ELSEWHERE names; for `before`."""
  os.chdir(os.environ['ELSEWHERE'])


def _enter(argv: list[str], env: dict[str, str], paths: list[str], before) -> None:
  for number, path in enumerate(paths, 1):
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, number)
    os.close(file)
  os.environ.update(env)
  os.chdir(ROOT)
  code = 0
  try:
    if before is not None:
      before()
    sys.argv = argv
    runpy.run_module(argv[0], run_name='__main__', alter_sys=True)
  except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if isinstance(end.code, str):
      print(end.code, file=sys.stderr)
  except BaseException:
    traceback.print_exc()
    code = 1
  # Shut down as an interpreter does: multiprocessing skips the functions registered with `atexit`.
  threading._shutdown()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
