"""The latents dataset: what `encode` writes and training reads."""

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ttm_jax.data import records
from ttm_jax.data.clips import decode_ids
from ttm_jax.data.context import Context
from ttm_jax.errors import InputError

NAME, VERSION = 'latents', '1.0.0'

# Strings and compressed label maps: not part of a training batch.
_APART = ('key', 'ids')


class Latents:
  """One split of a latents dataset: `source[i]` is the dict of arrays of `data.batch`."""

  def __init__(self, directory: epath.PathLike, split: str):
    """Opens a split.

    Raises:
      InputError: see `records.Records`.
    """
    self.records = records.Records(directory, split, NAME, VERSION)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    record = self.records[index]
    return {name: np.asarray(value) for name, value in record.items() if name not in _APART}

  def ids(self, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """The label maps that a record was made of, uint8 (T, H, W) = shape."""
    return decode_ids(self.records[index]['ids'], shape)

  def key(self, index: int) -> str:
    """The clip that a record was made of, without its variant."""
    return self.records[index]['key'].decode().rsplit('#', 1)[0]


def write_latents(
  directory: epath.PathLike,
  context: Context,
  splits: Mapping[str, Iterable[tuple[str, dict[str, Any]]]],
) -> None:
  """Writes a dataset of `encode.EncodedClips` records, and its context.

  Raises:
    InputError: see `records.write`.
  """
  streams = {split: _Peeked(stream) for split, stream in splits.items()}
  heads = [stream.head for stream in streams.values() if stream.head is not None]
  if not heads:
    raise InputError(f'{directory}: there are no clips to encode')
  records.write(directory, NAME, VERSION, _features(heads[0][1]), streams)
  context.save(directory)


class _Peeked:
  """An iterable whose first item can be seen beforehand."""

  def __init__(self, items: Iterable[tuple[str, dict[str, Any]]]):
    self._length = operator.length_hint(items)
    self._items = iter(items)
    self.head = next(self._items, None)

  def __length_hint__(self) -> int:
    return self._length

  def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
    return itertools.chain([] if self.head is None else [self.head], self._items)


def _features(record: Mapping[str, Any]) -> dict[str, Any]:
  def feature(name, value):
    if name in _APART:
      return tfds.features.Text()
    array = np.asarray(value)
    return tfds.features.Tensor(shape=array.shape, dtype=array.dtype, encoding='bytes')

  return {name: feature(name, value) for name, value in record.items()}
