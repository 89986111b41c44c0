"""Compile for chips that are not present: tell libtpu not to look for them."""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
  """Remove the flags of the other tests, which compile quickly but produce slow programs."""
  if config.option.markexpr != 'aot':
    return  # The other tests run too, with their flags.
  os.environ.pop('XLA_FLAGS', None)
  os.environ.update(
    TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost', ALLOW_MULTIPLE_LIBTPU_LOAD='1'
  )
