"""Sort tokens by object set.

In raster order, nearly every block of a video contains tokens of several objects, so no block can
be skipped. After sorting, the tokens of an object are contiguous, and the allowed pairs form a few
rectangles.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def sort_by_object(*bits: Array) -> Array:
  """Return the permutation that makes tokens with equal object sets contiguous.

  Args:
    bits: int32 [B, N] each. The first array is the primary key; later ones break ties. The position
      breaks the remaining ties.

  Returns:
    int32 [B, N], the source position of each token in the new order: the argument of `sort` and
    `unsort`.
  """
  positions = jnp.broadcast_to(jnp.arange(bits[0].shape[1], dtype=jnp.int32), bits[0].shape)
  return jax.lax.sort((*bits, positions), dimension=1, is_stable=True, num_keys=len(bits))[-1]


def sort(x: Array, order: Array) -> Array:
  """Permute x [B, N, ...] into the order."""
  return _permute(x, order, inverse(order))


def unsort(x: Array, order: Array) -> Array:
  """Permute x [B, N, ...] back from the order."""
  return _permute(x, inverse(order), order)


def inverse(order: Array) -> Array:
  """Return the inverse permutation, int32 [B, N]."""
  return jnp.argsort(order, axis=1).astype(jnp.int32)


@jax.custom_vjp
def _permute(x: Array, order: Array, back: Array) -> Array:
  index = order.reshape(*order.shape, *(1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, 1, mode='promise_in_bounds')


# The gradient of a permutation is its inverse. This rule makes it a gather; JAX would use a
# scatter.
_permute.defvjp(
  lambda x, order, back: (_permute(x, order, back), (order, back)),
  lambda orders, g: (_permute(g, *orders[::-1]), None, None),
)
