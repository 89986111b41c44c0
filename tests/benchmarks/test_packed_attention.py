"""cuDNN's packed sequences, with which the Hopper kernels are compared, on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import packed_attention as packed
from tests.helpers.attention_reference import reference
from ttm_jax.ops.object_attention import Case


def case(**changes):
  return Case(
    **{'queries': 4096, 'keys': 4096, 'head_dim': 64, 'dtype': jnp.bfloat16, 'platform': 'gpu'}
    | changes
  )


LAST = -(1 << 31)


@jax.custom_vjp
def spoil(x, keep):
  """Return x where `keep`, otherwise NaN like uninitialized memory; the same for the gradient."""
  return jnp.where(keep, x, jnp.nan)


spoil.defvjp(
  lambda x, keep: (spoil(x, keep), keep), lambda keep, g: (jnp.where(keep, g, jnp.nan), None)
)


def library(q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale):
  """Return packed sequences as JAX takes them: a list of offsets and lengths, ended by -1s."""
  assert q_seqlen.shape == kv_seqlen.shape and q_seqlen.shape[1] + 1 == q_offsets.shape[1]

  def members(offsets, lengths, n):
    """Return the membership bool [B, N, sequences]."""
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
  # Runs of tokens in any order; object sets that only queries or keys have; empty sets.
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
