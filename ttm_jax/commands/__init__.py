"""What the commands do: the front door `ttm_jax.X` has the flags of `ttm_jax.commands.X`.

A front door imports its module here when the flags are parsed. So help and wrong flags are told at
once, without the seconds that JAX and others take to import.

`run_command` runs commands one after the other, as `demo` and `ablate` do; `run_together` runs some
at the same time.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ttm_jax.errors import InputError

_POLL = 0.1  # Seconds between looks at running commands.


def run_command(name: str, command: Sequence[str], platforms: str = 'cpu') -> None:
  """Print a command and run it.

  Args:
    name: what the step is for.
    command: a module and its arguments, as for `python -m`.
    platforms: see `environment`.

  Raises:
    InputError: If the command fails. It has said why.
  """
  print(f'\n{name}\n  python -m {shlex.join(command)}', flush=True)
  code = subprocess.run([sys.executable, '-m', *command], env=environment(platforms)).returncode
  if code:
    raise InputError(f'step "{name}" failed with exit code {code}; see above')


class Beside(NamedTuple):
  """A command that runs beside another one.

  Attributes:
    name: what the step is for.
    command: a module and its arguments, as for `python -m`.
    log: the file that its output goes to.
  """

  name: str
  command: Sequence[str]
  log: Path


def run_together(
  name: str, command: Sequence[str], beside: Beside, platforms: str = 'cpu'
) -> tuple[float, float]:
  """Print two commands and run them at the same time; the first has the terminal.

  Args:
    name: what the first is for.
    command: a module and its arguments, as for `python -m`.
    beside: the second.
    platforms: see `environment`.

  Returns:
    The seconds that each took.

  Raises:
    InputError: If one fails; the other is stopped.
  """
  print(f'\n{name}\n  python -m {shlex.join(command)}', flush=True)
  print(f'{beside.name}, at the same time: its output is in {beside.log}', flush=True)
  print(f'  python -m {shlex.join(beside.command)}', flush=True)
  begin, seconds = time.perf_counter(), {}
  with open(beside.log, 'w') as log:
    running = {
      index: subprocess.Popen(
        [sys.executable, '-m', *each], env=environment(platforms), stdout=out, stderr=out
      )
      for index, (each, out) in enumerate(((command, None), (beside.command, log)))
    }
    try:
      while running:
        time.sleep(_POLL)
        for index, process in list(running.items()):
          if (code := process.poll()) is None:
            continue
          seconds[index] = time.perf_counter() - begin
          del running[index]
          if code:
            failed, where = ((name, 'see above'), (beside.name, f'see {beside.log}'))[index]
            raise InputError(f'step "{failed}" failed with exit code {code}; {where}')
    finally:  # Interrupted, or one has failed.
      for process in running.values():
        process.terminate()
      for process in running.values():
        process.wait()
  return seconds[0], seconds[1]


def environment(platforms: str = 'cpu') -> dict[str, str]:
  """Return the environment of this process, plus defaults for the CPU that it may override.

  Args:
    platforms: JAX_PLATFORMS unless it is set; empty for what JAX finds.

  Each training step on a CPU allocates its memory anew; huge pages reduce that cost. With glibc
  2.35 or newer, throughput on two cores is 36 % higher; other C libraries ignore the setting.
  """
  return {'JAX_PLATFORMS': platforms, 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1', **os.environ}
