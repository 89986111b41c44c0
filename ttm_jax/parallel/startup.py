"""How the processes of one job find each other."""

import os

import jax

from ttm_jax.errors import InputError

_VARIABLES = ('TTM_COORDINATOR', 'TTM_PROCESSES', 'TTM_PROCESS')


def initialize() -> None:
  """Joins the job that TTM_COORDINATOR (host:port), TTM_PROCESSES and TTM_PROCESS describe.

  Without these variables the process is alone.

  Raises:
    InputError: where only some of them are set.
  """
  values = [os.environ.get(name) for name in _VARIABLES]
  if not any(values):
    return
  if not all(values):
    missing = [name for name, value in zip(_VARIABLES, values, strict=True) if not value]
    raise InputError(f'a job of several processes also needs {" and ".join(missing)}')
  address, count, index = values
  jax.distributed.initialize(address, int(count or 1), int(index or 0))
