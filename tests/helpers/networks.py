"""Apply and compare networks by their parameters."""

import jax
import numpy as np
from flax import nnx


def same(a, b):
  """Return whether two trees have equal arrays."""
  return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@jax.jit(static_argnums=0)
def predict(graphdef, params, x_t, t, condition):
  return nnx.merge(graphdef, params)(x_t, t, condition)


@jax.jit(static_argnums=0)
def gradient(graphdef, params, x_t, t, condition):
  def energy(params):
    return (nnx.merge(graphdef, params)(x_t, t, condition) ** 2).mean()

  return jax.grad(energy)(params)
