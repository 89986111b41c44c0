"""Checksums of arrays, which find what the checksums of Orbax's file format do not cover.

OCDBT has checksums for its lists of arrays, but none for the values.

The checksum of an array is the sum of its bit patterns as integers, modulo 2**32, which is exact in
any order, for any sharding, and for an array that is read in parts. That of a tree adds those of
its arrays, each with its own odd factor, so that swapped arrays change it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def of_tree(tree: Any) -> jax.Array:
  """Return the checksum of all arrays of a tree, uint32 []."""
  total = jnp.zeros((), jnp.uint32)
  for place, leaf in enumerate(jax.tree.leaves(tree)):
    leaf = jax.device_put(leaf, jax.memory.Space.Device)
    total += sum_on_device(leaf) * jnp.uint32(_factor(place))
  return total


def of_array(array: np.ndarray, place: int) -> int:
  """Return what an array on the host, number `place` of its tree, adds to the checksum."""
  return sum_on_host(array) * _factor(place) % 2**32


def of_sums(sums: Sequence[int]) -> int:
  """Return the checksum of a tree from those of its arrays, in the order of its leaves."""
  return sum(value * _factor(place) for place, value in enumerate(sums)) % 2**32


def sum_on_device(array: jax.Array) -> jax.Array:
  """Return the checksum of one array, uint32 []; inside jit."""
  kind = jnp.dtype(f'uint{8 * jnp.dtype(array.dtype).itemsize}')
  bits = jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)
  return jnp.sum(bits, dtype=jnp.uint32)


def sum_on_host(array: np.ndarray) -> int:
  """Return the checksum of one array."""
  bits = np.ascontiguousarray(array).reshape(-1).view(f'u{array.dtype.itemsize}')
  return int(bits.sum(dtype=np.uint32))


def _factor(place: int) -> int:
  return 2 * place + 1
