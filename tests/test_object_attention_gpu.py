"""Object attention's kernels for Hopper GPUs, as far as a CPU can tell; see `hopper` for how."""

import json
import subprocess
import sys

import jax.numpy as jnp
import pytest

from tests import tiny
from ttm_jax.ops.object_attention import Case, choose, gpu
from ttm_jax.ops.object_attention.blocks import FULL, RUN, list_blocks

KINDS = [
  'sets of all kinds in any order',
  'objects one after the other',
  'a sample whose queries meet nothing',
  'keys in blocks of their own size',
]
# Minutes: every warpgroup is a thread of Python.
pytestmark = pytest.mark.slow

each_kind = pytest.mark.parametrize('kind', KINDS)


@pytest.fixture(scope='module')
def found():
  ended = subprocess.run(
    [sys.executable, '-m', 'tests.hopper'],
    cwd=tiny.ROOT,
    capture_output=True,
    text=True,
    timeout=900,  # Groups of threads that wait for each other wait forever.
  )
  assert ended.returncode == 0, ended.stderr
  assert 'RACE' not in ended.stdout, ended.stdout
  return json.loads(ended.stdout)


@each_kind
def test_values_and_gradients(found, kind):
  """As far from the rule in float64 as the library's dense attention in bfloat16, or nearer."""
  errors, dense = found[kind]['errors'], found[kind]['errors of dense attention']
  assert len(errors) == len(dense) == 4
  for error, limit in zip(errors, dense, strict=True):
    assert 0 < error < 1.2 * limit


@each_kind
def test_nothing_of_what_is_not_allowed(found, kind):
  assert not any(found[kind]['should be zero'])
  assert found[kind]['should not be zero'] > 0.1


def test_every_kind_of_block_was_met(found):
  kinds = {flags & (RUN | FULL) for case in found.values() for flags in case['blocks']}
  assert kinds == {0, RUN, RUN | FULL}
  assert any(len(case['should be zero']) == 4 for case in found.values())


def case(**changes):
  return Case(
    **{'queries': 4096, 'keys': 4096, 'head_dim': 64, 'dtype': jnp.bfloat16, 'platform': 'gpu'}
    | changes
  )


def test_what_it_refuses(monkeypatch):
  class Device:
    device_kind = 'NVIDIA H100 80GB HBM3'

  monkeypatch.setattr('jax.devices', lambda: [Device])
  for width in (40, 64, 80, 96, 128, 160):
    assert choose(case(head_dim=width)) == 'gpu'
  assert choose(case(dtype=jnp.float16)) == 'gpu'
  assert 'not float32' in gpu.refuses(case(dtype=jnp.float32))
  assert 'above 160' in gpu.refuses(case(head_dim=161))
  assert 'not on tpu' in gpu.refuses(case(platform='tpu'))
  for kind in ('NVIDIA H200', 'NVIDIA GH200 480GB'):
    Device.device_kind = kind
    assert gpu.refuses(case()) is None
  for kind in ('NVIDIA A100-SXM4-80GB', 'NVIDIA B200', 'NVIDIA GeForce RTX 4090'):
    Device.device_kind = kind
    assert f'needs a Hopper GPU (H100, H200, ...), not {kind}' in gpu.refuses(case())
    assert choose(case()) == 'chunked'


def test_blocks_that_need_too_much_shared_memory():
  x, bits = jnp.zeros((1, 1, 256, 128), jnp.bfloat16), jnp.zeros((1, 256), jnp.int32)
  tables = list_blocks(bits, bits, (128, 256), 'gpu')
  with pytest.raises(ValueError, match=r'forward needs \d+ bytes of shared memory, there are 2324'):
    gpu.KERNEL.forward(x, x, x, bits, bits, tables, 1.0)
