"""What the commands do: the front door `ttm_jax.X` has the flags of `ttm_jax.commands.X`.

A front door imports its module here when the flags are parsed. So help and wrong flags are told at
once, without the seconds that JAX and others take to import.

`run_command` runs commands one after the other, as `demo` and `ablate` do.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from ttm_jax.errors import InputError


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


def environment(platforms: str = 'cpu') -> dict[str, str]:
  """Return the environment of this process, plus defaults for the CPU that it may override.

  Args:
    platforms: JAX_PLATFORMS unless it is set; empty for what JAX finds.

  Each training step on a CPU allocates its memory anew; huge pages reduce that cost. With glibc
  2.35 or newer, throughput on two cores is 36 % higher; other C libraries ignore the setting.
  """
  return {'JAX_PLATFORMS': platforms, 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1', **os.environ}
