"""Runs the front doors, `python -m X`, in processes of their own.

`run` and `start` fork from a server that has imported all libraries but computed nothing, which
saves each process the seconds of its imports; what follows is what `python -m` does. `command`
gives the arguments for a process from scratch.
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

ROOT = Path(__file__).parents[1]

_LIBRARIES = [
  'data_tools.encode',
  'ttm_jax.evaluation',
  'ttm_jax.parallel.startup',
  'ttm_jax.pipeline',
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
  """How a front door ended.

  Attributes:
    code: exit code.
    out, err: what it wrote.
  """

  code: int
  out: str
  err: str


class Process:
  """A front door that runs."""

  def __init__(self, module: str, arguments: tuple, env: Mapping[str, str], before):
    self._folder = tempfile.TemporaryDirectory(prefix='door')
    self._paths = [os.path.join(self._folder.name, name) for name in ('out', 'err')]
    argv = [module, *map(str, arguments)]
    self._process = _CONTEXT.Process(target=_enter, args=(argv, dict(env), self._paths, before))
    self._process.start()
    self.pid: int = self._process.pid

  @property
  def running(self) -> bool:
    return self._process.is_alive()

  def wait(self, limit: float = 300) -> Ended:
    """Waits for its end, for `limit` seconds."""
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
  """Starts `python -m module arguments`.

  Args:
    env: environment variables on top of those of the tests.
    before: called in the process beforehand; a function of a module.
  """
  return Process(module, arguments, env, before)


def run(module: str, *arguments: object, **options) -> Ended:
  """Like `start`, to the end."""
  return start(module, *arguments, **options).wait()


def command(module: str, *arguments: object) -> list[str]:
  """The arguments of a process that does the same from scratch."""
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
  # As at the end of an interpreter; multiprocessing leaves out what `atexit` holds.
  threading._shutdown()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
