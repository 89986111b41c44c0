"""Check the decompressed size of ArrayRecord files before reading them.

Files written by `records.ShardWriter` are uncompressed, so a record takes no more memory than its
file. Other writers may compress: then a file of 100 KB can expand to gigabytes.

Source of the format: "Riegeli/records file format specification" (github.com/google/riegeli). A
file consists of 64 KiB blocks, each starting with a 24-byte header. Chunks span these blocks, here
with one record each. The 40-byte header of a chunk states its compressed and decompressed size.
"""

import os
import struct
from typing import BinaryIO

from array_record.python.array_record_module import ArrayRecordReader

_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 2**16, 24, 40
# Accept chunks that decompress to at most _SMALL bytes, or by at most _FACTOR.
_SMALL, _FACTOR = 64 * 2**20, 100


def check_growth(path: str) -> None:
  """Raise ValueError if decompressing a file of records could exhaust memory.

  Reads only the writer options of an uncompressed file, and the chunk headers of a compressed one.

  Raises:
    ValueError: a chunk exceeds 64 MiB and 100 times its stored size, or the headers are corrupt.
    OSError: the file cannot be read.
  """
  reader = ArrayRecordReader(path)
  compressed = 'uncompressed' not in reader.writer_options_string().split(',')
  reader.close()
  if not compressed:
    return
  size, at = os.path.getsize(path), 0
  with open(path, 'rb') as file:
    while at < size:
      header, end = _read(file, at, _CHUNK_HEADER)
      if len(header) < _CHUNK_HEADER:
        raise ValueError(f'a chunk ends within its header at byte {at}')
      _, stored, _, kind_and_records, grown = struct.unpack('<5Q', header)
      records = kind_and_records >> 8
      if grown > max(_SMALL, _FACTOR * stored):
        raise ValueError(f'{stored} bytes would become {grown}')
      # The format gives a chunk at least one byte of the file per record.
      at = max(_after(end, stored), at + records)
      if at > _BLOCK * (size // _BLOCK + 1):
        raise ValueError('a chunk ends beyond the file')


def _read(file: BinaryIO, at: int, count: int) -> tuple[bytes, int]:
  """Return up to `count` bytes of chunk data from offset `at`, and the offset after them.

  Block headers are skipped.
  """
  found = b''
  while len(found) < count:
    at += _BLOCK_HEADER if at % _BLOCK == 0 else 0
    file.seek(at)
    more = file.read(min(count - len(found), _BLOCK - at % _BLOCK))
    if not more:
      break
    found += more
    at += len(more)
  return found, at


def _after(at: int, count: int) -> int:
  """Return the file offset that is `count` bytes of chunk data after offset `at`."""
  if at % _BLOCK == 0:
    at += _BLOCK_HEADER
  left = _BLOCK - at % _BLOCK  # Bytes left in this block.
  if count <= left:
    return at + count
  blocks, rest = divmod(count - left - 1, _BLOCK - _BLOCK_HEADER)
  return at + left + blocks * _BLOCK + _BLOCK_HEADER + rest + 1
