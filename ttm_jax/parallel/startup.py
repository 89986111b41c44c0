"""How the processes of one job find each other."""

import os

import jax

from ttm_jax.errors import InputError

_VARIABLES = ('TTM_COORDINATOR', 'TTM_PROCESSES', 'TTM_PROCESS')


def initialize() -> None:
  """Joins the job that TTM_COORDINATOR (host:port), TTM_PROCESSES and TTM_PROCESS describe.

  Without these variables the process is alone.

  Raises:
    InputError: where only some of them are set, or the numbers make no sense.
  """
  values = [os.environ.get(name) for name in _VARIABLES]
  if not any(values):
    return
  if not all(values):
    missing = [name for name, value in zip(_VARIABLES, values, strict=True) if not value]
    raise InputError(f'a job of several processes also needs {" and ".join(missing)}')
  address, count, index = (value or '' for value in values)
  if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
    raise InputError(
      f'TTM_PROCESSES={count} must be a number and TTM_PROCESS={index} one from 0 to just below it'
    )
  jax.distributed.initialize(address, int(count), int(index))
