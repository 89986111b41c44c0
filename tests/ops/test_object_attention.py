"""Every implementation of object attention against the rule in float64 NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.attention_reference import reference
from ttm_jax.ops import attention as plain
from ttm_jax.ops.object_attention import (
  IMPLEMENTATIONS,
  Case,
  api,
  choose,
  make_block_mask,
  object_attention,
  sort,
  sort_by_object,
  unsort,
)
from ttm_jax.ops.object_attention.blocks import PLACE_BITS, RUN, list_blocks
from ttm_jax.parallel.mesh import AXES
from ttm_jax.parallel.sharded_attention import samples_of_a_device

BACKGROUND, ONE, TWO, LAST = 1, 2, 4, -(1 << 31)  # LAST is bit 31: a negative int32.

# Implementations for one accelerator have tests of their own.
HERE = [n for n, i in IMPLEMENTATIONS.items() if not i.refuses(Case(8, 8, 64, jnp.float32, 'cpu'))]
every_implementation = pytest.mark.parametrize('name', HERE)


@functools.partial(jax.jit, static_argnames='name')
def with_gradients(q, k, v, q_bits, k_bits, dy, name):
  def attend(q, k, v):
    return object_attention(q, k, v, q_bits, k_bits, implementation=name)

  y, pull = jax.vjp(attend, q, k, v)
  return y, *pull(dy)


def inputs(n, m, seed=0, heads=2, width=4):
  """Return float32 q, k, v and a cotangent; with logits of about +-4 no row is nearly uniform."""
  rng = np.random.default_rng(seed)
  sizes = [(2, n), (2, m), (2, m), (2, n)]
  q, k, v, dy = (rng.normal(size=(*s, heads, width)).astype(np.float32) for s in sizes)
  return 2 * q, 2 * k, v, dy


def assert_close(got, wanted):
  """Assert agreement within 1e-5 of the largest value of each array."""
  for x, y in zip(got, wanted, strict=True):
    # Where each query reads one key, gradients are terms of order 1 that cancel to exactly 0.
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(np.abs(y).max(), 1))


def cycle(values, count):
  """Repeat the values, int32 [2, count]; the second sample starts at the last value."""
  return np.stack([np.resize(np.roll(np.array(values, np.int32), i), count) for i in range(2)])


CASES = {
  'several objects': (cycle([BACKGROUND, ONE, TWO], 21), cycle([TWO, ONE, BACKGROUND], 13)),
  'an object without keys': (cycle([ONE, TWO], 21), cycle([ONE], 13)),
  'an object without queries': (cycle([ONE], 21), cycle([ONE, TWO], 13)),
  'all background': (cycle([BACKGROUND], 21), cycle([BACKGROUND], 13)),
  'background without prompts': (cycle([0], 21), cycle([ONE, TWO], 13)),
  'boxes that overlap': (cycle([ONE | TWO, ONE, 0, TWO], 21), cycle([ONE, TWO, TWO], 13)),
  'the last bit': (cycle([LAST, LAST | ONE, TWO], 21), cycle([LAST, ONE, ONE], 13)),
  'everyone': (cycle([-1], 21), cycle([ONE, LAST, 0], 13)),
}


@every_implementation
@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients(name, case):
  q, k, v, dy = inputs(21, 13)
  q_bits, k_bits = CASES[case]
  got = with_gradients(q, k, v, q_bits, k_bits, dy, name)
  assert_close(got, reference(q, k, v, q_bits, k_bits, dy))


sets = st.integers(-(1 << 31), (1 << 31) - 1) | st.sampled_from([0, ONE, TWO, ONE | TWO, LAST])


@settings(max_examples=60, deadline=None)
@given(
  st.lists(sets, min_size=42, max_size=42),
  st.lists(sets, min_size=26, max_size=26),
  st.integers(0, 99),
)
def test_any_sets(queries, keys, seed):
  q, k, v, dy = inputs(21, 13, seed)
  q_bits = np.array(queries, np.int32).reshape(2, 21)
  k_bits = np.array(keys, np.int32).reshape(2, 13)
  wanted = reference(q, k, v, q_bits, k_bits, dy)
  lonely = (q_bits[:, :, None] & k_bits[:, None] == 0).all(-1)
  unread = (q_bits[:, :, None] & k_bits[:, None] == 0).all(1)
  for name in HERE:
    y, dq, dk, dv = got = with_gradients(q, k, v, q_bits, k_bits, dy, name)
    assert_close(got, wanted)
    # Exactly: disallowed tokens have no influence.
    assert not np.asarray(y)[lonely].any() and not np.asarray(dq)[lonely].any()
    assert not np.asarray(dk)[unread].any() and not np.asarray(dv)[unread].any()


@every_implementation
def test_rows_without_a_key_pass_nothing_back(name):
  q, k, v, dy = inputs(21, 13)
  q_bits, k_bits = cycle([0, ONE, TWO], 21), cycle([ONE], 13)
  lonely = q_bits != ONE
  dy[~lonely] = 0  # The loss depends on those rows only.
  y, *gradients = with_gradients(q, k, v, q_bits, k_bits, dy, name)
  assert not np.asarray(y)[lonely].any() and np.abs(np.asarray(y)[~lonely]).min() > 0
  assert all(not np.asarray(g).any() for g in gradients)


@every_implementation
def test_sequences_longer_than_a_block(name):
  n = 512 + 37  # Not a multiple of any block size.
  rng = np.random.default_rng(1)
  q, k, v, dy = inputs(n, n, heads=1)
  tokens = np.sort(rng.choice([BACKGROUND, ONE, TWO], (2, n)).astype(np.int32))
  tokens[:, -1] = LAST  # The last token of the last block attends to itself only.
  got = with_gradients(q, k, v, tokens, tokens, dy, name)
  assert_close(got, reference(q, k, v, tokens, tokens, dy))
  np.testing.assert_allclose(got[0][:, -1], v[:, -1], rtol=1e-6)


@every_implementation
def test_padded_keys_have_no_effect(name):
  q, k, v, dy = inputs(21, 13)
  q_bits, k_bits = cycle([-1, ONE, BACKGROUND], 21), cycle([ONE, TWO, 0], 13)
  before = with_gradients(q, k, v, q_bits, k_bits, dy, name)
  k[k_bits == 0] = 1e4
  v[k_bits == 0] = -1e4
  after = with_gradients(q, k, v, q_bits, k_bits, dy, name)
  for x, y in zip(before, after, strict=True):
    np.testing.assert_array_equal(x, y)


@every_implementation
def test_order_of_tokens_does_not_matter(name):
  q, k, v, dy = inputs(21, 21)
  tokens = cycle([BACKGROUND, ONE, ONE | TWO, TWO], 21)
  y = with_gradients(q, k, v, tokens, tokens, dy, name)
  order = np.argsort(tokens[0], kind='stable')  # Sort the first sample, shuffle the other.
  moved = [x[:, order] for x in (q, k, v, tokens, tokens, dy)]
  assert_close(with_gradients(*moved, name), [np.asarray(x)[:, order] for x in y])


@every_implementation
def test_half_precision(name):
  q, k, v, dy = inputs(21, 13)
  q_bits, k_bits = cycle([BACKGROUND, ONE, 0], 21), cycle([BACKGROUND, ONE], 13)
  half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
  y = object_attention(*half, q_bits, k_bits, implementation=name)
  assert y.dtype == jnp.bfloat16
  wanted = reference(*half, q_bits, k_bits, dy)[0]
  # bfloat16 has 8 bits; the softmax is float32.
  np.testing.assert_allclose(np.asarray(y, np.float32), wanted, atol=0.03)


@every_implementation
def test_huge_logits(name):
  q, k, v, dy = inputs(21, 13)
  q, k = 300 * q, 300 * k
  # One key per query: logits of all sizes and both signs are the largest of their row.
  q_bits, k_bits = cycle([ONE, 0], 21), cycle([ONE, *[TWO] * 12], 13)
  got = with_gradients(q, k, v, q_bits, k_bits, dy, name)
  y, dq, dk, dv = reference(q, k, v, q_bits, k_bits, dy)
  assert_close((got[0], got[3]), (y, dv))
  # A softmax over one key does not depend on its logit.
  np.testing.assert_allclose(got[1], dq, atol=1e-5 * np.abs(k).max())
  np.testing.assert_allclose(got[2], dk, atol=1e-5 * np.abs(q).max())


def case(n, platform='cpu', **changes):
  return dataclasses.replace(Case(n, n, 64, jnp.dtype(jnp.float32), platform), **changes)


def test_choice():
  assert choose(case(1024)) == 'reference'
  assert choose(case(1025)) == 'chunked'
  assert choose(case(4096, 'tpu', dtype=jnp.dtype(jnp.bfloat16))) == 'tpu'
  assert choose(case(8), ['tpu', 'chunked', 'reference']) == 'chunked'
  assert choose(case(4096, 'tpu')) == 'tpu'
  # Every platform has an implementation for every case.
  for platform in ('cpu', 'gpu', 'tpu', 'metal'):
    for dtype in (jnp.float32, jnp.float64):
      choose(case(5000, platform, head_dim=1000, dtype=jnp.dtype(dtype)))
  with pytest.raises(ValueError, match=r'no implementation .* can do it: tpu '):
    choose(case(8), 'tpu')


def test_samples_of_a_device():
  mesh = jax.sharding.AbstractMesh((2, 4, 1, 2), AXES)
  assert samples_of_a_device(16) == 16
  with jax.sharding.use_abstract_mesh(mesh):
    assert samples_of_a_device(16) == 2
    assert samples_of_a_device(3) == 3  # They do not divide: every device has all samples.


def test_tables_serve_every_layer():
  n = 700
  q, k, v, _ = inputs(n, n, heads=1)
  tokens = np.sort(np.random.default_rng(1).choice([ONE, TWO], (2, n)).astype(np.int32))
  block_mask = make_block_mask(
    tokens, tokens, head_dim=4, dtype=jnp.float32, implementation='chunked'
  )
  for values in (v, 2 * v):
    wanted = object_attention(q, k, values, tokens, tokens, implementation='chunked')
    got = object_attention(q, k, values, tokens, tokens, block_mask=block_mask)
    np.testing.assert_array_equal(got, wanted)
  with pytest.raises(ValueError, match="the block mask is for implementation 'chunked', not for"):
    object_attention(q, k, v, tokens, tokens, block_mask=block_mask, implementation='reference')
  # A list of names accepts a block mask of any of them.
  options = {'block_mask': block_mask, 'implementation': ['reference', 'chunked']}
  assert object_attention(q, k, v, tokens, tokens, **options).shape == v.shape


listed = jax.jit(list_blocks, static_argnums=(2, 3))


@settings(max_examples=60, deadline=None)
@given(
  # Few sizes, since each is compiled.
  st.sampled_from([(1, 40), (40, 1), (13, 27), (32, 16)]),
  st.sampled_from([(4, 8), (8, 4), (16, 16)]),
  st.integers(0, 1 << 20),
)
def test_blocks_that_are_visited_are_those_with_an_allowed_pair(tokens, block, seed):
  n, m = tokens
  rng = np.random.default_rng(seed)
  some = rng.choice([0, ONE, TWO, ONE | TWO, LAST, -1], 3).astype(np.int32)
  q_bits, k_bits = (np.sort(rng.choice(some, (3, size)), 1) for size in (n, m))
  block_mask = listed(jnp.asarray(q_bits), jnp.asarray(k_bits), block, 'chunked')
  rows, columns = -(-n // block[0]), -(-m // block[1])
  wanted = {
    (b, r, c)
    for b, r, c in np.ndindex(3, rows, columns)
    if (
      q_bits[b, r * block[0] : (r + 1) * block[0], None]
      & k_bits[b, None, c * block[1] : (c + 1) * block[1]]
    ).any()
  }
  for blocks, turn, lines in ((block_mask.by_query, 1, rows), (block_mask.by_key, -1, columns)):
    place, what = np.asarray(blocks.place), np.asarray(blocks.what)
    running = np.flatnonzero((what[: int(blocks.count[0])] & RUN) != 0)
    found = [
      (what[i] >> 4, *(place[i] >> PLACE_BITS, place[i] & (1 << PLACE_BITS) - 1)[::turn])
      for i in running
    ]
    assert len(found) == len(wanted) and set(found) == wanted
    # The same by row, as the kernels' loops read it.
    start, runs = np.asarray(blocks.start), np.asarray(blocks.runs)
    assert [
      i for line in range(3 * lines) for i in range(start[line], start[line] + runs[line])
    ] == running.tolist()


def test_full_blocks_are_full_and_the_simple_ones_are_found():
  q_bits = np.array([[ONE] * 4 + [TWO] * 2 + [ONE] * 2 + [ONE | TWO] * 4], np.int32)
  block_mask = list_blocks(jnp.asarray(q_bits), jnp.asarray(q_bits), (4, 4), 'chunked')
  place, what = (np.asarray(x) for x in (block_mask.by_query.place, block_mask.by_query.what))
  full = {(int(p) >> 16, int(p) & 0xFFFF) for p, w in zip(place, what, strict=True) if w & 8}
  assert full == {(0, 0), (0, 2), (1, 2), (2, 0), (2, 1), (2, 2)}


def test_sorting():
  region = jnp.array([[TWO, ONE, LAST, ONE, ONE], [ONE, ONE, ONE, ONE, ONE]], jnp.int32)
  present = jnp.array([[TWO, 3, LAST, ONE, 3], [0, 7, 1, 7, 0]], jnp.int32)
  order = sort_by_object(region, present)
  np.testing.assert_array_equal(order, [[2, 3, 1, 4, 0], [0, 4, 2, 1, 3]])
  x = jnp.arange(20.0).reshape(2, 5, 2)
  np.testing.assert_array_equal(sort(x, order)[0, :, 0], [4, 6, 2, 8, 0])
  np.testing.assert_array_equal(unsort(sort(x, order), order), x)
  weights = jnp.arange(20.0).reshape(2, 5, 2) ** 2
  gradient = jax.grad(lambda x: (sort(x, order) * weights).sum())(x)
  np.testing.assert_array_equal(gradient, unsort(weights, order))


def test_sorted_tokens_leave_most_blocks_out():
  rng = np.random.default_rng(0)
  # Raster order: a mixture.
  tokens = jnp.asarray(rng.choice(1 << np.arange(4), (1, 4096)), jnp.int32)
  ordered = sort(tokens, sort_by_object(tokens))
  counts = [
    int(list_blocks(bits, bits, (256, 256), 'chunked').by_query.runs.sum()) / 256
    for bits in (tokens, ordered)
  ]
  assert counts[0] == 1.0 and counts[1] < 0.4  # 0.25 are allowed.


def test_memory_is_linear_in_the_tokens():
  def temporary(n):
    x, bits = jnp.zeros((1, n, 1, 64)), jnp.ones((1, n), jnp.int32)

    def loss(q, k, v):
      return object_attention(q, k, v, bits, bits, implementation='chunked').sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  small, large = temporary(8192), temporary(32768)
  assert large < 4.5 * small and large < 32768**2  # Bytes: less than one per pair.


def test_errors():
  q, k, v, _ = inputs(3, 2)
  q_bits, k_bits = cycle([ONE], 3), cycle([ONE], 2)
  with pytest.raises(ValueError, match=r"no implementation 'refrence'.*did you mean .reference"):
    object_attention(q, k, v, q_bits, k_bits, implementation='refrence')
  with pytest.raises(ValueError, match='must be int32, got int32 and uint8'):
    object_attention(q, k, v, q_bits, k_bits.astype(np.uint8))
  with pytest.raises(ValueError, match=r'bits must be \(2, 3\) for queries and \(2, 2\) for keys'):
    object_attention(q, k, v, q_bits, q_bits)
  with pytest.raises(ValueError, match='asks for k and v of'):
    object_attention(q, k[..., :3], v, q_bits, k_bits)


@pytest.mark.parametrize('pairs', [1 << 20, 0])
def test_plain_attention(monkeypatch, pairs):
  monkeypatch.setitem(api.DENSE_PAIRS, 'cpu', pairs)  # 0 selects the kernel for long videos.
  q, k, v, dy = inputs(21, 13)
  everyone = cycle([-1], 21), cycle([-1], 13)
  got, pull = jax.vjp(plain.attention, q, k, v)
  assert_close((got, *pull(jnp.asarray(dy))), reference(q, k, v, *everyone, dy))


@pytest.mark.parametrize(
  ('dtype', 'width', 'by_cudnn'),
  [
    ('bfloat16', 128, True),
    ('bfloat16', 40, True),
    ('bfloat16', 160, False),
    ('float32', 64, False),
  ],
)
def test_plain_attention_on_gpus_keeps_no_scores(monkeypatch, dtype, width, by_cudnn):
  asked = []

  def cudnn(q, k, v, implementation):
    asked.append(implementation)
    return v

  monkeypatch.setattr(plain, 'platform', lambda: 'gpu')
  monkeypatch.setattr(jax.nn, 'dot_product_attention', cudnn)
  x = jax.ShapeDtypeStruct((1, 4096, 2, width), dtype)
  program = jax.make_jaxpr(plain.attention)(x, x, x)
  assert asked == ['cudnn'] * by_cudnn
  assert 'f32[1,2,4096,4096]' not in str(program)
