"""How large the records of an ArrayRecord file are, before they are unpacked.

Files that `records.ShardWriter` writes are not compressed: a record takes no more memory than its
file. Other writers compress, and then 100 KB can become gigabytes.

Source of the format: "Riegeli/records file format specification" (github.com/google/riegeli). A
file is cut into blocks of 64 KiB that begin with a header of 24 bytes. Across these run the chunks,
one for each record here, whose header of 40 bytes states both sizes.
"""

import os
import struct
from typing import BinaryIO

from array_record.python.array_record_module import ArrayRecordReader

_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 2**16, 24, 40
# A record may always have so many bytes, and more if it does not grow by more than this factor.
_SMALL, _FACTOR = 64 * 2**20, 100


def check_growth(path: str) -> None:
  """Raise ValueError if a compressed file of records could fill the memory.

  Of a file that is not compressed only the options are read, of others the header of each chunk.

  Raises:
    ValueError: a chunk grows too much, or the headers are damaged.
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
      # A chunk takes at least one byte of the file for each of its records.
      at = max(_after(end, stored), at + records)
      if at > _BLOCK * (size // _BLOCK + 1):
        raise ValueError('a chunk ends beyond the file')


def _read(file: BinaryIO, at: int, count: int) -> tuple[bytes, int]:
  """`count` bytes of chunks from a place in the file on, and where they end."""
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
  """The place in the file `count` bytes of chunks after another."""
  if at % _BLOCK == 0:
    at += _BLOCK_HEADER
  left = _BLOCK - at % _BLOCK  # Of this block.
  if count <= left:
    return at + count
  blocks, rest = divmod(count - left - 1, _BLOCK - _BLOCK_HEADER)
  return at + left + blocks * _BLOCK + _BLOCK_HEADER + rest + 1
