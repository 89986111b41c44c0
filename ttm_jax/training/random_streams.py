"""Random keys of a run: one root key, and one stream of keys for each use."""

import zlib

import jax

Array = jax.Array


def stream(key: Array, name: str, step: Array | int) -> Array:
  """Derive the random key of one named use at one step."""
  return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)
