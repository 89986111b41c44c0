"""The object attention kernels for Hopper GPUs, tested on a CPU as described in `hopper`."""

import importlib
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny
from ttm_jax.ops.object_attention import Case, choose, gpu
from ttm_jax.ops.object_attention.blocks import list_blocks


def simulated(what):
  """Return the errors that `hopper` measures, once its exact checks have passed."""
  if jax.__version__ != '0.10.2':
    pytest.skip('what the simulator lacks was added for JAX 0.10.2')
  ended = subprocess.run(
    [sys.executable, '-m', 'tests.helpers.hopper', what],
    cwd=tiny.ROOT,
    capture_output=True,
    text=True,
    timeout=900,  # Warpgroups that deadlock would wait forever.
  )
  assert ended.returncode == 0, ended.stderr
  assert 'RACE' not in ended.stdout, ended.stdout
  return json.loads(ended.stdout)


def assert_as_good_as_dense(found):
  """Compare errors of half precision with those of the library's dense attention."""
  for errors, dense in found:
    assert len(errors) == len(dense) == 4
    for error, usual in zip(errors, dense, strict=True):
      assert error <= 2 * usual < 0.02, (errors, dense)


@pytest.mark.parametrize(
  'what, count', [('maps', 3), pytest.param('all-maps', 8, marks=pytest.mark.slow)]
)
def test_label_maps(what, count):
  """Compare values and gradients; `hopper` has checked zeros, races and visited blocks."""
  found = simulated(what)
  assert len(found['float32']) >= count and np.max([x[0] for x in found['float32']]) < 1e-5
  assert_as_good_as_dense(found['bfloat16'])


@pytest.mark.slow
def test_head_dims():
  found = simulated('widths')
  assert len(found) == 4
  assert_as_good_as_dense(found.values())


def case(**changes):
  return Case(
    **{'queries': 4096, 'keys': 4096, 'head_dim': 64, 'dtype': jnp.bfloat16, 'platform': 'gpu'}
    | changes
  )


@pytest.fixture
def device(monkeypatch):
  class Device:
    device_kind = 'NVIDIA H100 80GB HBM3'

  monkeypatch.setattr('jax.devices', lambda: [Device])
  return Device


def test_choice(device):
  """Cases that the kernels do not support have another implementation."""
  for width in (8, 40, 64, 80, 96, 128, 160):
    assert choose(case(head_dim=width)) == 'gpu'
  assert choose(case(dtype=jnp.float16)) == choose(case(samples=4096)) == 'gpu'
  for changes, reason in (
    ({'dtype': jnp.float32}, 'not float32'),
    ({'head_dim': 161}, 'above 160'),
    ({'platform': 'tpu'}, 'not on tpu'),
    ({'platform': 'metal'}, 'not on metal'),
  ):
    assert reason in gpu.refuses(case(**changes))
    assert choose(case(**changes)) in {'tpu', 'chunked'}
  for kind in ('NVIDIA H200', 'NVIDIA GH200 480GB'):
    device.device_kind = kind
    assert gpu.refuses(case()) is None
  for kind in ('NVIDIA A100-SXM4-80GB', 'NVIDIA B200', 'NVIDIA GeForce RTX 4090', 'AMD MI300X'):
    device.device_kind = kind
    assert f'needs a Hopper GPU (H100, H200, ...), not {kind}' in gpu.refuses(case())
    assert choose(case()) == 'chunked'


def test_builds_without_the_compilers(device, monkeypatch):
  """Simulate a jaxlib without the compilers, and a JAX whose private parts have moved."""

  def reloaded(module):
    spec = importlib.util.spec_from_file_location(f'{module.__name__}_again', module.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again

  assert reloaded(gpu).refuses(case()) is None
  monkeypatch.setitem(sys.modules, 'jax.experimental.pallas.mosaic_gpu', None)
  monkeypatch.delattr(jax.experimental.pallas, 'mosaic_gpu')
  assert 'is not compiled by this build' in reloaded(gpu).refuses(case())


def test_costs_count_all_blocks():
  n, m, d = 248, 128, 64
  q, k = (jnp.zeros((1, 2, size, d), jnp.bfloat16) for size in (n, m))
  q_bits, k_bits = jnp.zeros((1, 256), jnp.int32), jnp.zeros((1, m), jnp.int32)

  def flops(attend, *args):
    block_mask = list_blocks(q_bits, k_bits, (128, 128), 'gpu')
    program = jax.make_jaxpr(lambda *args: attend(q, k, k, q_bits, k_bits, block_mask, 1.0, *args))
    return int(re.search(r'flops=(\d+)', str(program(*args))).group(1))

  statistics = jnp.zeros((1, 2, n))
  assert flops(gpu.KERNEL.forward) == 4 * 2 * n * m * d
  assert flops(gpu.KERNEL.backward, statistics, statistics, q) == 10 * 2 * n * m * d


def test_blocks_that_need_too_much():
  x, bits = jnp.zeros((1, 1, 256, 128), jnp.bfloat16), jnp.zeros((1, 768), jnp.int32)

  def forward(*block):
    block_mask = list_blocks(bits, bits, block, 'gpu')
    gpu.KERNEL.forward(x, x, x, bits, bits, block_mask, 1.0)

  with pytest.raises(ValueError, match=r'forward needs \d+ bytes of shared memory, there are 2324'):
    forward(128, 256)
  with pytest.raises(ValueError, match='registers for 128 rows of a block, not for 192'):
    forward(192, 64)
