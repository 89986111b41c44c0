"""Stacked blocks: recomputation in the backward pass, and the dtypes of gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttm_jax.nn.linear import Linear, exact_gradients, matmul
from ttm_jax.nn.scan import scan_blocks, stack
from ttm_jax.ops.object_attention import object_attention
from ttm_jax.ops.rematerialization import POLICIES
from ttm_jax.planning import hlo
from ttm_jax.planning.costs import costs

DEPTH, WIDTH = 3, 8


class Block(nnx.Module):
  def __init__(self, config, rngs, dtype=jnp.float32):
    self.up = Linear(WIDTH, WIDTH, rngs=rngs, dtype=dtype)
    self.down = Linear(WIDTH, WIDTH, rngs=rngs, dtype=dtype)

  def __call__(self, h, context):
    return h + self.down(jnp.tanh(self.up(h))) * context


@pytest.fixture(scope='module')
def blocks():
  return stack(Block, DEPTH, None, nnx.Rngs(0))


def gradient(blocks, remat, unroll):
  graphdef, state = nnx.split(blocks)

  def loss(state, h):
    return (scan_blocks(nnx.merge(graphdef, state), h, 2.0, remat, unroll) ** 2).sum()

  return jax.jit(jax.grad(loss)), state, jnp.ones((2, 5, WIDTH))


def flops(blocks, remat, unroll):
  function, *args = gradient(blocks, remat, unroll)
  return costs(hlo.parse(function.lower(*args).compile().as_text()), 1).flops


def test_what_is_recomputed(blocks):
  product = 2 * 10 * WIDTH * WIDTH
  forward = 2 * DEPTH * product
  none = flops(blocks, 'none', 1)
  assert none == pytest.approx(3 * forward, abs=product)
  # The first product of each block is recomputed; no gradient needs what follows it.
  assert flops(blocks, 'full', 1) - none == pytest.approx(DEPTH * product, abs=product)
  assert flops(blocks, 'dots', 1) == none


def test_attention_is_computed_again_only_where_all_is():
  bits = jnp.ones((1, 64), jnp.int32)

  def products(remat):
    @partial(jax.checkpoint, policy=POLICIES[remat])
    def attend(q):
      return object_attention(q, q, q, bits, bits, implementation='chunked')

    def loss(q):
      return jax.lax.scan(lambda q, _: (attend(q), None), q, length=DEPTH)[0].sum()

    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((1, 64, 2, 8))).compile()
    return compiled.as_text().count(' dot(')

  # Two of the forward pass, five of the backward pass.
  assert products('none') == products('dots') == 7 < products('full')


@pytest.mark.parametrize('unroll', [1, DEPTH])
def test_where_there_is_no_loop_the_compiler_is_kept_from_undoing_it(blocks, unroll):
  """A barrier around the recomputed part does this; the compiler for CPUs drops it."""
  function, *args = gradient(blocks, 'full', unroll)
  assert ('optimization_barrier' in function.lower(*args).as_text()) == (unroll == DEPTH)


def test_all_policies_derive_the_same(blocks):
  function, *args = gradient(blocks, 'none', 1)
  wanted = function(*args)
  for remat in POLICIES:
    function, *args = gradient(blocks, remat, 1)
    got = function(*args)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got, wanted)
  with pytest.raises(ValueError, match=r"remat 'ful' must be one of .*did you mean \"full\""):
    scan_blocks(blocks, args[-1], 2.0, 'ful')


def test_gradients_that_are_not_rounded():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 32, 16)), jnp.bfloat16)
  w = jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)
  dy = jnp.asarray(rng.normal(size=(4, 32, 8)), jnp.bfloat16)

  def derive(exact):
    with exact_gradients(exact):
      y, pull = jax.vjp(matmul, x, w)
    return y, *pull(dy)

  (y, dx, dw), (other_y, other_dx, exact) = derive(False), derive(True)
  wanted = np.einsum('bni,bno->io', np.asarray(x, np.float64), np.asarray(dy, np.float64))
  assert dw.dtype == exact.dtype == jnp.float32
  np.testing.assert_array_equal(np.asarray(y, np.float32), np.asarray(other_y, np.float32))
  np.testing.assert_array_equal(np.asarray(dx, np.float32), np.asarray(other_dx, np.float32))
  np.testing.assert_array_equal(dw, dw.astype(jnp.bfloat16).astype(jnp.float32))
  np.testing.assert_allclose(exact, wanted, rtol=1e-5, atol=1e-5)
  assert np.abs(dw - wanted).max() > 1e-3


def test_matrices_are_rounded_before_the_loop():
  blocks = stack(partial(Block, dtype=jnp.bfloat16), DEPTH, None, nnx.Rngs(0))
  graphdef, params = nnx.split(blocks)
  h = jnp.ones((2, 5, WIDTH), jnp.bfloat16)

  def loss(params):
    return scan_blocks(nnx.merge(graphdef, params), h, 2.0, 'dots').astype(jnp.float32).sum()

  def one_by_one(params):
    apply = nnx.merge(graphdef, params)
    y = h
    for i in range(DEPTH):
      y = nnx.merge(graphdef, jax.tree.map(lambda x, i=i: x[i], nnx.state(apply)))(y, 2.0)
    return y.astype(jnp.float32).sum()

  def of_layers(exact):
    """Return the dtypes of the arrays that the forward loop slices per layer."""
    with exact_gradients(exact):
      jaxpr = jax.make_jaxpr(lambda p: loss(p))(params)
    (scan,) = (e for e in jaxpr.eqns if e.primitive.name == 'scan')
    return {v.aval.dtype for v in scan.invars if v.aval.shape[:1] == (DEPTH,)}

  assert of_layers(False) == {jnp.dtype('bfloat16')}
  assert of_layers(True) == {jnp.dtype('float32')}
  got, wanted = jax.grad(loss)(params), jax.grad(one_by_one)(params)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(got))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-2, atol=1e-2), got, wanted)
