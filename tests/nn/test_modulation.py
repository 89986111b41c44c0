"""Norms and gated residuals against plain formulas that JAX differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttm_jax.nn import modulation
from ttm_jax.nn.modulation import gated_residual, rms_norm

EPS = 1e-5


@pytest.fixture(autouse=True, params=['cpu', 'gpu'])
def compiled_for(request, monkeypatch):
  """GPUs keep the sums separate."""
  monkeypatch.setattr(modulation, 'platform', lambda: request.param)


def plain_norm(x, factor, shift):
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + EPS)
  return (y * factor + shift).astype(x.dtype)


def plain_residual(h, y, gate):
  return (h.astype(jnp.float32) + gate * y.astype(jnp.float32)).astype(h.dtype)


def values_and_gradients(function, arrays):
  y, pull = jax.vjp(function, *arrays)
  dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype)
  return y, *pull(dy)


def arrays(*shapes, dtype):
  rng = np.random.default_rng(0)
  first, *rest = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
  return first.astype(dtype), *rest


def check(ours, plain, inputs, dtype):
  near = {'atol': 2e-5, 'rtol': 2e-5} if dtype == 'float32' else {'atol': 2e-2, 'rtol': 2e-2}
  for a, b in zip(
    values_and_gradients(ours, inputs), values_and_gradients(plain, inputs), strict=True
  ):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(np.float32(a), np.float32(b), **near)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(
  'x, factor, shift',
  [
    ((2, 5, 8), (2, 1, 8), (2, 1, 8)),  # Modulated.
    ((2, 5, 8), (8,), ()),
    ((2, 5, 3, 8), (8,), ()),  # Over heads.
    ((4, 8), (8,), ()),
  ],
)
def test_a_norm_is_the_plain_one(x, factor, shift, dtype):
  check(
    lambda *given: rms_norm(*given, EPS),
    plain_norm,
    arrays(x, factor, shift, dtype=dtype),
    dtype,
  )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_gated_residual_is_the_plain_one(dtype):
  h, y, gate = arrays((2, 5, 8), (2, 5, 8), (2, 1, 8), dtype=dtype)
  check(gated_residual, plain_residual, (h, y.astype(dtype), gate), dtype)


def test_sums_over_tokens_are_float32():
  """With many tokens: a bfloat16 sum stops growing at 256."""
  h = jnp.ones((1, 5000, 4), jnp.bfloat16)
  dgate = jax.grad(lambda gate: gated_residual(h, h, gate).astype(jnp.float32).sum())(
    jnp.zeros((1, 1, 4))
  )
  np.testing.assert_array_equal(dgate, 5000)
  dshift = jax.grad(
    lambda shift: rms_norm(h, jnp.ones((1, 1, 4)), shift, EPS).astype(jnp.float32).sum()
  )(jnp.zeros((1, 1, 4)))
  np.testing.assert_array_equal(dshift, 5000)
