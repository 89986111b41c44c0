"""PNG files of kinds that Pillow does not write."""

import struct
import zlib

import numpy as np

# For each pass of an interlaced PNG: first row and column, and the steps between them.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))


def grey(values: np.ndarray, bits: int, interlaced: bool = False) -> bytes:
  """Encode a gray PNG of 1, 2, 4, 8 or 16 bits; values [H, W] below 2^bits are stored unscaled."""
  parts = [values]
  if interlaced:
    parts = [values[y::dy, x::dx] for y, x, dy, dx in (*_PASSES, (1, 0, 2, 1))]
  rows = b''.join(_row(row, bits) for part in parts if part.size for row in part)
  height, width = values.shape
  header = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, interlaced)
  chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b''))
  return b'\x89PNG\r\n\x1a\n' + b''.join(_chunk(*chunk) for chunk in chunks)


def _row(row: np.ndarray, bits: int) -> bytes:
  text = ''.join(f'{int(value):0{bits}b}' for value in row)
  text += '0' * (-len(text) % 8)
  return b'\0' + int(text, 2).to_bytes(len(text) // 8, 'big')


def _chunk(name: bytes, content: bytes) -> bytes:
  checksum = struct.pack('>I', zlib.crc32(name + content))
  return struct.pack('>I', len(content)) + name + content + checksum
