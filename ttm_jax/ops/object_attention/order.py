"""Tokens in the order of their objects.

In raster order nearly every block of a video holds tokens of several objects, and no block can be
skipped. Sorted, the tokens of an object lie together, and the allowed pairs form a few rectangles.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def sort_by_object(*bits: Array) -> Array:
  """The order that brings equal object sets together.

  Args:
    bits: int32 [B, N] each; the first decides, the next ones where it is equal; then the position.

  Returns:
    int32 [B, N], the position each token of the new order comes from: the argument of `sort` and
    `unsort`.
  """
  positions = jnp.broadcast_to(jnp.arange(bits[0].shape[1], dtype=jnp.int32), bits[0].shape)
  return jax.lax.sort((*bits, positions), dimension=1, is_stable=True, num_keys=len(bits))[-1]


def sort(x: Array, order: Array) -> Array:
  """Brings x [B, N, ...] into the order."""
  return _permute(x, order, inverse(order))


def unsort(x: Array, order: Array) -> Array:
  """Brings x [B, N, ...] back from the order."""
  return _permute(x, inverse(order), order)


def inverse(order: Array) -> Array:
  """The order that undoes an order; int32 [B, N]."""
  return jnp.argsort(order, axis=1).astype(jnp.int32)


@jax.custom_vjp
def _permute(x: Array, order: Array, back: Array) -> Array:
  index = order.reshape(*order.shape, *(1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, 1, mode='promise_in_bounds')


# The gradient of a permutation is its inverse: a gather, where JAX would scatter.
_permute.defvjp(
  lambda x, order, back: (_permute(x, order, back), (order, back)),
  lambda orders, g: (_permute(g, *orders[::-1]), None, None),
)
