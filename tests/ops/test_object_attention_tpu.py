"""The object attention kernels for TPUs on a simulated TPU, against the rule in float64 NumPy.

The simulation fills memory with NaN until it is written, copies only when a copy is waited for,
visits heads in random order, and detects races between copies and cores. Each step of a kernel
takes some 20 ms, so there are few and small blocks.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tests.helpers.attention_reference import reference
from tests.helpers.object_sets import LAST, label_maps, maps, owners
from ttm_jax.ops.object_attention import Case, blocked, choose, splash, tpu
from ttm_jax.ops.object_attention import reference as dense
from ttm_jax.ops.object_attention.blocks import list_blocks

SIMULATED = pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan', random_seed=0)
ONE_WALK = tpu.make_kernel(interpret=SIMULATED, chunk=128)
# The gradient of one head's queries does not fit.
TWO_WALKS = tpu.make_kernel(interpret=SIMULATED, chunk=128, memory=(3000 << 10, 1 << 20))


@pytest.fixture(autouse=True)
def no_races(capfd):
  """Fail if the simulator prints that it found a race."""
  yield
  assert 'RACE' not in capfd.readouterr().out


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(attend, block, q, k, v, q_bits, k_bits, dy):
  """Return y, dq, dk, dv of a kernel, or of a function with its signature."""
  if isinstance(attend, blocked.Kernel):
    attend = functools.partial(blocked.attention, attend)
  block_mask = list_blocks(q_bits, k_bits, block, 'tpu')
  y, pull = jax.vjp(lambda q, k, v: attend(q, k, v, q_bits, k_bits, block_mask), q, k, v)
  return y, *pull(dy)


def inputs(n, m, samples=1, heads=1, width=8, seed=0):
  """Return float32 q, k, v and a cotangent; with logits of about +-4 no row is nearly uniform."""
  rng = np.random.default_rng(seed)
  q, k, v, dy = (
    rng.normal(size=(samples, s, heads, width)).astype(np.float32) for s in (n, m, m, n)
  )
  return 2 * q, 2 * k, v, dy


def check(got, q, k, v, q_bits, k_bits, dy):
  """Assert errors below 1e-5 of the largest value (at least 1), and 0 for fully masked queries."""
  for x, y in zip(got, reference(q, k, v, q_bits, k_bits, dy), strict=True):
    # Where each query reads one key, gradients are terms of order 1 that cancel to exactly 0.
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(np.abs(y).max(), 1))
  y, dq, dk, dv = map(np.asarray, got)
  allowed = (q_bits[:, :, None] & k_bits[:, None]) != 0
  lonely, unread = ~allowed.any(2), ~allowed.any(1)
  assert not y[lonely].any() and not dq[lonely].any()
  assert not dk[unread].any() and not dv[unread].any()


@pytest.mark.parametrize('kernel, walks', [(ONE_WALK, 1), (TWO_WALKS, 2)])
def test_samples_of_every_kind_in_one_batch(kernel, walks):
  n, m = 300, 200
  q_bits, k_bits = (np.stack(x).astype(np.int32) for x in zip(*maps(n, m).values(), strict=True))
  q, k, v, dy = inputs(n, m, samples=len(q_bits), width=64)
  arguments = q, k, v, q_bits, k_bits, dy
  check(run(kernel, (128, 256), *arguments), *arguments)
  program = str(jax.make_jaxpr(functools.partial(run, kernel, (128, 256)))(*arguments))
  assert program.count('name=object_attention') == 1 + walks


ONE_KEY = np.ones((1, 270), np.int32), (np.arange(140) == 70).astype(np.int32)[None]


@settings(max_examples=6, deadline=None)
@given(label_maps(1, 270), label_maps(1, 140), st.integers(0, 99))
@example(*ONE_KEY, 0)
def test_any_label_map(q_bits, k_bits, seed):
  q, k, v, dy = inputs(270, 140, seed=seed)
  check(run(ONE_WALK, (128, 128), q, k, v, q_bits, k_bits, dy), q, k, v, q_bits, k_bits, dy)


@pytest.mark.parametrize('width', [40, 64, 80, 96, 128, 160])
def test_head_dims(width):
  q, k, v, dy = inputs(130, 130, width=width)
  tokens = owners(130, 60, 20)[None]
  arguments = q, k, v, tokens, tokens, dy
  check(run(ONE_WALK, (128, 128), *arguments), *arguments)


def test_two_cores_share_the_heads():
  cores = dataclasses.replace(SIMULATED, num_cores_or_threads=2)
  q, k, v, dy = inputs(130, 130, heads=3)
  tokens = owners(130, 60)[None]
  arguments = q, k, v, tokens, tokens, dy
  check(run(tpu.make_kernel(interpret=cores), (128, 128), *arguments), *arguments)


def test_half_precision_is_as_good_as_dense_attention():
  q, k, v, dy = (jnp.asarray(x, jnp.bfloat16) for x in inputs(300, 300, width=64))
  tokens = owners(300, 140, 60)[None]
  arguments = q, k, v, tokens, tokens, dy
  wanted = reference(*arguments)
  plain = run(lambda *x: dense.attention(*x[:5]), (128, 128), *arguments)
  for x, y, z in zip(run(ONE_WALK, (128, 128), *arguments), plain, wanted, strict=True):
    assert x.dtype == jnp.bfloat16
    error, usual = (np.abs(np.asarray(a, np.float64) - z).max() for a in (x, y))
    assert error < 2 * usual


def test_visits_the_blocks_with_an_allowed_pair():
  n, m, heads = 300, 200, 2
  visits = []

  def record(token, point, core):
    visits.append(tuple(map(int, point)))
    return token

  recorded = dataclasses.replace(SIMULATED, grid_point_recorder=record)
  kernel = tpu.make_kernel(interpret=recorded)
  every = maps(n, m)
  q_bits, k_bits = (
    np.stack([every[x][i] for x in ('objects of all sizes', 'empty objects')]).astype(np.int32)
    for i in (0, 1)
  )
  q, k, v, _ = inputs(n, m, samples=2, heads=heads)

  def attend(q, k, v):
    block_mask = list_blocks(q_bits, k_bits, (128, 128), 'tpu')
    return blocked.attention(kernel, q, k, v, q_bits, k_bits, block_mask)

  allowed = np.zeros((2, 384, 256), bool)
  allowed[:, :n, :m] = (q_bits[:, :, None] & k_bits[:, None]) != 0
  some = allowed.reshape(2, 3, 128, 2, 128).any((2, 4))
  assert 0 < some.sum() < some.size
  # A row without any block is visited once, to write its zeros.
  idle = (~some.any(2)).sum(), (~some.any(1)).sum()
  y, pull = jax.vjp(attend, q, k, v)
  jax.block_until_ready(y)
  assert len(visits) == len(set(visits)) == heads * (some.sum() + idle[0])
  visits.clear()
  jax.block_until_ready(pull(y))
  assert len(visits) == len(set(visits)) == heads * (some.sum() + idle[1])


def test_costs_count_the_expected_share_of_blocks():
  def flops(share):
    q = jnp.zeros((1, 1, 256, 64), jnp.bfloat16)
    bits = jnp.zeros((1, 256), jnp.int32)

    def forward(q):
      block_mask = list_blocks(bits, bits, (128, 128), 'tpu')
      return tpu.make_kernel(share=share).forward(q, q, q, bits, bits, block_mask, 1.0)

    (call,) = [x for x in jax.make_jaxpr(forward)(q).eqns if x.primitive.name == 'pallas_call']
    return call.params['cost_estimate'].flops

  assert flops(1.0) == 4 * 256 * 256 * 64 and flops(0.25) == 256 * 256 * 64


def trace(n, m, d, dtype, samples=1, block=None, **options):
  """Trace both passes, which checks the memory they need."""
  block = block or tpu.block(Case(n, m, d, jnp.dtype(dtype), 'tpu', samples))
  q, k = (jax.ShapeDtypeStruct((samples, s, 1, d), dtype) for s in (n, m))
  q_bits, k_bits = (jax.ShapeDtypeStruct((samples, s), jnp.int32) for s in (n, m))
  jax.eval_shape(
    functools.partial(run, tpu.make_kernel(**options), block), q, k, k, q_bits, k_bits, q
  )


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
@pytest.mark.parametrize('n, m', [(65536, 65536), (8448, 8448), (4096, 640), (200, 77)])
def test_blocks_fit_the_smallest_chip(n, m, dtype):
  for d in (40, 128, 256):
    block = tpu.block(Case(n, m, d, jnp.dtype(dtype), 'tpu'))
    assert not block[0] % 128 and not block[1] % 128
    trace(n, m, d, dtype)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_blocks_grow_with_the_batch(dtype):
  def case(samples):
    return Case(65536, 65536, 256, jnp.dtype(dtype), 'tpu', samples)

  sizes = [tpu.block(case(1)), *tpu.LARGER[jnp.dtype(dtype).itemsize]]
  assert sizes[0] == {'bfloat16': (1024, 1024), 'float32': (512, 512)}[dtype]
  for block in dict.fromkeys(sizes):
    blocks = 65536 // block[0] * (65536 // block[1])
    samples = (7 << 17) // (8 * blocks)  # As many as seven eighths of 1 MiB can list.
    assert tpu.block(case(samples)) == block and tpu.refuses(case(samples)) is None
    trace(65536, 65536, 256, dtype, samples=samples)  # It fits in vector memory, too.
  assert 'no room to list the blocks of' in tpu.refuses(case(samples + 1))
  assert choose(case(samples + 1)) == 'chunked'


def test_memory_is_checked():
  with pytest.raises(ValueError, match=r'\(1024, 1024\) need \d+ KiB of vector memory, there are'):
    trace(4096, 4096, 128, 'float32', block=(1024, 1024), memory=(8 << 20, 1 << 20))
  with pytest.raises(ValueError, match=r'262144 blocks .* needs 2048 KiB of scalar memory.*fewer'):
    trace(65536, 65536, 40, 'bfloat16', samples=4, block=(256, 256))
  with pytest.raises(ValueError, match=r'multiples of 128, got \(100, 128\)'):
    trace(200, 256, 64, 'bfloat16', block=(100, 128))


def test_choice():
  case = Case(4096, 4096, 64, jnp.dtype('bfloat16'), 'tpu')
  assert choose(case) == 'tpu'
  assert choose(dataclasses.replace(case, dtype=jnp.dtype('float16'))) == 'chunked'
  for name in ('tpu', 'splash'):
    with pytest.raises(ValueError, match=f'{name} runs on TPUs, not on cpu'):
      choose(dataclasses.replace(case, platform='cpu'), name)


def test_splash_attention_of_disjoint_objects():
  # Its scratch is an uninitialized output: no NaN fill, no race detection.
  attend = splash.make_attention(interpret=pltpu.InterpretParams())
  q, k, v, dy = inputs(300, 300, samples=2)
  tokens = np.stack([owners(300, 130, 0, 100), np.where(np.arange(300) < 140, LAST, 0)])
  q_bits = tokens.astype(np.int32)
  k_bits = np.where(q_bits == 8, 16, q_bits)  # The last object of the first sample has no keys.
  for keys in (q_bits, k_bits):
    arguments = q, k, v, q_bits, keys, dy
    check(run(attend, (128, 128), *arguments), *arguments)


def test_a_race_is_found(capfd):
  """Check that `no_races` detects a race: two cores add to the same block."""

  def kernel(x, y):
    y[...] += x[...]

  cores = dataclasses.replace(SIMULATED, num_cores_or_threads=2)
  add = pl.pallas_call(
    kernel,
    out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
    grid=(2,),
    in_specs=[pl.BlockSpec((8, 128), lambda i: (i, 0))],
    out_specs=pl.BlockSpec((8, 128), lambda i: (0, 0)),
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',)),
    interpret=cores,
  )
  jax.block_until_ready(add(jnp.ones((16, 128))))
  assert 'RACE' in capfd.readouterr().out
