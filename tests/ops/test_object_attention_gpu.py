"""Object attention's kernels for Hopper GPUs, as far as a CPU can tell; see `hopper` for how."""

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
from tests.ops.test_object_attention import reference
from ttm_jax.ops.object_attention import Case, choose, gpu, packed
from ttm_jax.ops.object_attention.blocks import list_blocks


def simulated(what):
  """What `hopper` finds, once it has found nothing that is not exact."""
  if jax.__version__ != '0.10.2':
    pytest.skip('what the simulator lacks was added for JAX 0.10.2')
  ended = subprocess.run(
    [sys.executable, '-m', 'tests.helpers.hopper', what],
    cwd=tiny.ROOT,
    capture_output=True,
    text=True,
    timeout=900,  # Groups of threads that wait for each other wait forever.
  )
  assert ended.returncode == 0, ended.stderr
  assert 'RACE' not in ended.stdout, ended.stdout
  return json.loads(ended.stdout)


def assert_as_good_as_dense(found):
  """Errors of half precision, against those of the library's dense attention in it."""
  for errors, dense in found:
    assert len(errors) == len(dense) == 4
    for error, usual in zip(errors, dense, strict=True):
      assert error <= 2 * usual < 0.02, (errors, dense)


def test_label_maps():
  """Values and gradients; zeros, races and visited blocks have been looked at."""
  found = simulated('maps')
  assert len(found['float32']) >= 8 and np.max([x[0] for x in found['float32']]) < 1e-5
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
  """What the kernels cannot, something else can."""
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
  """A jaxlib that cannot compile the kernels, a JAX whose private parts have moved."""

  def reloaded(module):
    spec = importlib.util.spec_from_file_location(f'{module.__name__}_again', module.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again

  assert reloaded(gpu).refuses(case()) is reloaded(packed).refuses(case()) is None
  for name in ('jax._src.cudnn.fused_attention_stablehlo', 'jax.experimental.pallas.mosaic_gpu'):
    monkeypatch.setitem(sys.modules, name, None)
  monkeypatch.delattr(jax.experimental.pallas, 'mosaic_gpu')
  assert 'is not compiled by this build' in reloaded(gpu).refuses(case())
  assert 'what this version of JAX does not have' in reloaded(packed).refuses(case())


def test_costs_count_all_blocks():
  n, m, d = 248, 128, 64
  q, k = (jnp.zeros((1, 2, size, d), jnp.bfloat16) for size in (n, m))
  q_bits, k_bits = jnp.zeros((1, 256), jnp.int32), jnp.zeros((1, m), jnp.int32)

  def flops(attend, *args):
    tables = list_blocks(q_bits, k_bits, (128, 128), 'gpu')
    program = jax.make_jaxpr(lambda *args: attend(q, k, k, q_bits, k_bits, tables, 1.0, *args))
    return int(re.search(r'flops=(\d+)', str(program(*args))).group(1))

  statistics = jnp.zeros((1, 2, n))
  assert flops(gpu.KERNEL.forward) == 4 * 2 * n * m * d
  assert flops(gpu.KERNEL.backward, statistics, statistics, q) == 10 * 2 * n * m * d


def test_blocks_that_need_too_much():
  x, bits = jnp.zeros((1, 1, 256, 128), jnp.bfloat16), jnp.zeros((1, 768), jnp.int32)

  def forward(*block):
    tables = list_blocks(bits, bits, block, 'gpu')
    gpu.KERNEL.forward(x, x, x, bits, bits, tables, 1.0)

  with pytest.raises(ValueError, match=r'forward needs \d+ bytes of shared memory, there are 2324'):
    forward(128, 256)
  with pytest.raises(ValueError, match='registers for 128 rows of a block, not for 192'):
    forward(192, 64)


LAST = -(1 << 31)


@jax.custom_vjp
def spoil(x, keep):
  """x where it is to be kept, else memory that no one has written; the gradient likewise."""
  return jnp.where(keep, x, jnp.nan)


spoil.defvjp(
  lambda x, keep: (spoil(x, keep), keep), lambda keep, g: (jnp.where(keep, g, jnp.nan), None)
)


def library(q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale):
  """What JAX says of its packed sequences: a list of offsets and lengths, ended by -1s."""
  assert q_seqlen.shape == kv_seqlen.shape and q_seqlen.shape[1] + 1 == q_offsets.shape[1]

  def members(offsets, lengths, n):
    """bool [B, N, sequences]."""
    position, first = jnp.arange(n)[:, None], offsets[:, None, :-1]
    return (first >= 0) & (position >= first) & (position < first + lengths[:, None])

  q_in, k_in = members(q_offsets, q_seqlen, q.shape[1]), members(kv_offsets, kv_seqlen, k.shape[1])
  q_kept, k_kept = (x.any(-1)[:, :, None, None] for x in (q_in, k_in))
  q, k, v = spoil(q, q_kept), spoil(k, k_kept), spoil(v, k_kept)
  q, k, v = jnp.where(q_kept, q, 0), jnp.where(k_kept, k, 0), jnp.where(k_kept, v, 0)
  mask = (q_in[:, :, None] & k_in[:, None]).any(-1)[:, None]
  y = jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale)
  return jnp.where(q_kept, y, jnp.nan)


def test_packed_sequences(monkeypatch):
  monkeypatch.setattr(packed, 'dot_product_attention', library)
  # Runs of tokens in any order; of sets that only one side has; of no set at all.
  q_bits = np.repeat([[LAST, 0, 1, 4], [2, 2, 1, 0]], [5, 3, 8, 4], 1).astype(np.int32)
  k_bits = np.repeat([[1, 8, LAST], [1, 0, 4]], [7, 2, 4], 1).astype(np.int32)
  rng = np.random.default_rng(0)
  shapes = [(2, n, 2, 8) for n in (20, 13, 13, 20)]
  q, k, v, dy = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
  y, pull = jax.vjp(lambda q, k, v: packed.attention(q, k, v, q_bits, k_bits), q, k, v)
  got = [np.asarray(x) for x in (y, *pull(jnp.asarray(dy)))]
  for x, wanted in zip(got, reference(q, k, v, q_bits, k_bits, dy), strict=True):
    np.testing.assert_allclose(x, wanted, rtol=0, atol=1e-5)
  lonely = (q_bits[:, :, None] & k_bits[:, None] == 0).all(-1)
  assert lonely.any() and not got[0][lonely].any() and not got[1][lonely].any()


def test_tokens_that_are_no_packed_sequences(monkeypatch):
  monkeypatch.setattr(packed, 'dot_product_attention', library)
  x = jnp.ones((3, 4, 1, 8))
  bits = np.array([[1, 1, 2, 2], [1, 2, 1, 2], [1, 1, 2, 3]], np.int32)
  y = packed.attention(x, x, x, bits, bits)
  np.testing.assert_array_equal(np.isnan(y).all((1, 2, 3)), [False, True, True])
  np.testing.assert_array_equal(y[0], x[0])


def test_runs_of_tokens():
  first, length, fits = packed.runs(jnp.array([[4, 4, 1, LAST], [0, 1, 0, 1]], jnp.int32))
  bits = [0, 2, 31]
  np.testing.assert_array_equal(first[:, bits], [[2, 0, 3], [1, 4, 4]])
  np.testing.assert_array_equal(length[:, bits], [[1, 2, 1], [2, 0, 0]])
  assert length.sum() == 6
  np.testing.assert_array_equal(fits, [True, False])


def test_what_packed_sequences_refuse():
  assert 'multiples of 8 up to 256, not 36' in packed.refuses(case(head_dim=36))
  assert 'not 264' in packed.refuses(case(head_dim=264))
  assert 'not float32' in packed.refuses(case(dtype=jnp.float32))
  assert 'not on cpu' in packed.refuses(case(platform='cpu'))
