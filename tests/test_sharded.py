"""Attention on a mesh of eight devices is attention on one."""

import json
import subprocess
import sys

import pytest

from tests import tiny


@pytest.fixture(scope='module')
def found():
  ended = subprocess.run(
    [sys.executable, '-m', 'tests.eight_devices'], cwd=tiny.ROOT, capture_output=True, text=True
  )
  assert ended.returncode == 0, ended.stderr
  return json.loads(ended.stdout)


def test_values_and_gradients(found):
  assert len(found['errors']) == 12
  assert max(found['errors'].values()) < 1e-5, found['errors']


def test_tokens_are_exchanged_for_heads_and_never_gathered(found):
  assert found['collectives']['all-to-all'] > 0
  assert found['collectives']['all-gather'] == 0, found['collectives']
