"""Compiling for chips that are not there: libtpu is told not to look for them."""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
  """After the other tests' flags, which are for quick compilation and not for good programs."""
  if config.option.markexpr != 'aot':
    return  # The other tests are to run, with their flags.
  os.environ.pop('XLA_FLAGS', None)
  os.environ.update(
    TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost', ALLOW_MULTIPLE_LIBTPU_LOAD='1'
  )
