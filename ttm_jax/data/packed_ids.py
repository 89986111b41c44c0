"""Lossless compression of label maps, as records of both datasets hold them."""

import math
import zlib

import numpy as np

from ttm_jax.errors import InputError


def encode_ids(ids: np.ndarray) -> bytes:
  """Compress label maps, uint8 [T, H, W], losslessly: zlib over the XOR of successive frames."""
  changes = ids.copy()
  changes[1:] ^= ids[:-1]
  return zlib.compress(changes.tobytes(), 6)


def decode_ids(compressed: bytes, shape: tuple[int, ...]) -> np.ndarray:
  """Invert `encode_ids`.

  Args:
    compressed: the output of `encode_ids`.
    shape: the expected (T, H, W).

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: the bytes are corrupt or of another shape.
  """
  size, decoder = math.prod(shape), zlib.decompressobj()
  try:
    # One extra byte detects excess data without decompressing all of it.
    unpacked = decoder.decompress(compressed, size + 1)
  except zlib.error as error:
    raise InputError(f'{len(compressed)} bytes are not label maps of {shape} ({error})') from error
  if len(unpacked) != size or not decoder.eof:
    much = 'more' if len(unpacked) > size else 'fewer'
    raise InputError(f'{len(compressed)} bytes are not label maps of {shape} (they hold {much})')
  changes = np.frombuffer(unpacked, np.uint8).reshape(shape)
  return np.bitwise_xor.accumulate(changes, axis=0)
