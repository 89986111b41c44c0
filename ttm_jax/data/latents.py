"""Read and write the latents dataset, written by `encode` and read by training.

Text embeddings are stored without padding and zero-padded when read. The dataset metadata holds the
padded shapes. (Typically a caption has 40 of 256 tokens, and two of eight prompts exist. Padding
would be most of a record.)

All sizes come from untrusted files. Opening a dataset checks its sizes against its context. Reading
a record checks its sizes before allocating memory.
"""

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from ttm_jax.data import context as contexts
from ttm_jax.data import records
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.packed_ids import decode_ids
from ttm_jax.errors import InputError

NAME, VERSION = 'latents', '2.0.0'

# Keys and compressed label maps are not part of a training batch.
_APART = ('key', 'ids')
_COUNT = '_length'  # Suffix of the field with the number of valid tokens of a text.
_MAX_TEXT = 2**30  # Maximum bytes of one padded text field; eight prompts of UL2 take 2**22.


class Latents:
  """One split of a latents dataset. `source[i]` is the dict of arrays described in `data.batch`.

  Attributes:
    records: the underlying records.
  """

  def __init__(self, directory: epath.PathLike, split: str):
    """Open a split.

    Raises:
      InputError: see `records.Records`; or the sizes in the metadata are inconsistent.
    """
    self.records = records.Records(directory, split, NAME, VERSION)
    self._layout = _read_layout(self.records)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Return the arrays of record `index`, with padded texts.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt.
    """
    return {name: array[0] for name, array in self.collate([self.stored[index]]).items()}

  @property
  def stored(self) -> 'Stored':
    """The records with unpadded texts, as input of `collate`."""
    return Stored(self.records, self._layout)

  def collate(self, records: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack `stored` records into a batch with padded texts.

    Padding costs no writes, because `np.zeros` returns zeroed memory.
    """
    batch = {}
    for name in records[0]:
      if name in self._layout.padded:
        whole = np.zeros((len(records), *self._layout.padded[name]), records[0][name].dtype)
        for row, record in zip(whole, records, strict=True):
          fill(row, record[name], record[name + _COUNT])
        batch[name] = whole
      else:
        batch[name] = np.stack([record[name] for record in records])
    return batch

  def record(self, index: int) -> dict[str, Any]:
    """Return record `index` as stored: its arrays, and the bytes of `key` and `ids`.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt.
    """

    def parse(serialized: bytes) -> dict[str, Any]:
      return {**arrays(serialized), **_fields(serialized, _APART)}

    arrays = self.stored.parse
    return self.records.take(index, parse)

  def ids(self, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the label maps that a record was encoded from, uint8 [T, H, W].

    Args:
      index: number of the record.
      shape: the expected (T, H, W).

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt, or the label maps have another shape.
    """
    return self.records.take(
      index, lambda serialized: decode_ids(_fields(serialized, ['ids'])['ids'], shape)
    )

  def key(self, index: int) -> str:
    """Return the key of the clip that a record was encoded from, without the variant number.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt.
    """
    return self.full_key(index).rsplit('#', 1)[0]

  def full_key(self, index: int) -> str:
    """Return the key of a record, 'CLIP#VARIANT'.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt.
    """
    return self.records.take(index, lambda serialized: _fields(serialized, ['key'])['key'].decode())


@dataclasses.dataclass(frozen=True)
class _Layout:
  """Dtypes and shapes that all records share.

  Attributes:
    arrays: dtype and stored shape of each array; -1 is the number of valid tokens of a text.
    padded: the padded shape of each text.
  """

  arrays: dict[str, tuple[np.dtype, tuple[int, ...]]]
  padded: dict[str, tuple[int, ...]]


def _read_layout(source: records.Records) -> _Layout:
  """Read and check the layout stated by the features and metadata of a dataset.

  Raises:
    InputError: the sizes are inconsistent, too large, or differ from the context of the dataset.
  """
  where = source.directory

  def bad(what: str) -> InputError:
    return InputError(f'{where}: {what}; encode the dataset again')

  arrays = {}
  for name, feature in source.features.items():
    if name in _APART:
      continue
    if not isinstance(feature, tfds.features.Tensor):
      raise bad(f'the field {name!r:.100} of its records is not an array')
    arrays[name] = (
      np.dtype(feature.np_dtype),
      tuple(-1 if size is None else size for size in feature.shape),
    )
  stated = source.metadata.get('padded')
  if not isinstance(stated, dict) or set(stated) != {name for name in arrays if _is_text(name)}:
    raise bad('"padded" in metadata.json does not have the texts of its records')
  encoding = None
  if (epath.Path(where) / contexts.FOLDER / 'context.json').exists():
    encoding = contexts.read_encoding(where)
  padded = {}
  for name, shape in stated.items():
    dtype, stored = arrays[name]
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
      raise bad(
        f'"padded" in metadata.json has {shape!r:.100} for {name!r:.100}, which is not a shape'
      )
    counts = arrays.get(name + _COUNT)
    if counts is None or counts[0].kind not in 'iu' or len(counts[1]) > 1 or -1 in counts[1]:
      raise bad(f'the number of tokens of {name!r:.100} is missing or not an integer')
    lead = 1 + len(counts[1])
    if shape[: lead - 1] != list(counts[1]) or [-1, *shape[lead:]] != list(stored):
      raise bad(f'{name!r:.100} has the padded shape {shape}, but records have {list(stored)}')
    if math.prod(shape) * dtype.itemsize > _MAX_TEXT:
      raise bad(f'{name!r:.100} would take more than {_MAX_TEXT} bytes of each record')
    if encoding and (wanted := _context_shape(name, encoding)) != shape[: len(wanted)]:
      raise bad(f'{name!r:.100} has the padded shape {shape}, but its context says {wanted}')
    padded[name] = tuple(shape)
  for name, (_, stored) in arrays.items():
    if -1 in stored and name not in padded:
      raise bad(f'the array {name!r:.100} has no fixed shape')
  return _Layout(arrays, padded)


def _context_shape(name: str, encoding: Encoding) -> list[int]:
  """Return the leading dimensions of the padded shape of a text, according to the context."""
  encoder, _, field = name.removeprefix('text.').rpartition('.')
  if encoder not in encoding.encoders:
    return []
  settings = encoding.encoders[encoder]
  if field == 'prompts':
    return [encoding.max_objects, settings.prompt_length]
  return [settings.length]


def _fields(serialized: bytes, wanted: Iterable[str]) -> dict[str, bytes]:
  """Return some fields of a serialized record.

  Raises:
    Exception: a wanted field is missing or not one bytes value, or the bytes are not a record.
  """
  features = tf_example_pb2.Example.FromString(serialized).features.feature
  fields = {}
  for name in wanted:
    if name not in features or len(features[name].bytes_list.value) != 1:
      raise ValueError(f'it has no {name}')
    fields[name] = features[name].bytes_list.value[0]
  return fields


class Stored:
  """The records as stored, with unpadded texts and random access.

  Parses records without the generic feature handling of TFDS, which took half of the read time for
  the small records of the demo.
  """

  def __init__(self, source: records.Records, layout: _Layout):
    self._records, self._layout = source, layout

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Return the arrays of record `index`, read-only.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt.
    """
    return self._records.take(index, self.parse)

  def parse(self, serialized: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a serialized record, read-only.

    Raises:
      ValueError: the sizes differ from the layout of the dataset.
    """
    fields = _fields(serialized, self._layout.arrays)
    arrays = {
      name: np.frombuffer(fields[name], dtype).reshape(shape)
      for name, (dtype, shape) in self._layout.arrays.items()
    }
    for name, shape in self._layout.padded.items():
      counts = arrays[name + _COUNT]
      each = counts.tolist() if counts.ndim else [int(counts)]
      fits = all(0 <= count <= shape[counts.ndim] for count in each)
      if not fits or sum(each) != len(arrays[name]):
        raise ValueError(f'{name} has {len(arrays[name])} tokens, not {each}')
    return arrays


def write_latents(
  directory: epath.PathLike,
  context: Context,
  splits: Mapping[str, Iterable[tuple[str, dict[str, Any]]]],
) -> None:
  """Write a latents dataset with its context.

  Args:
    directory: see `records.write`.
    context: saved in the folder of the dataset.
    splits: (key, record) pairs of each split, such as `encode.EncodedClips`.

  Raises:
    InputError: see `write_records`.
  """
  write_records(directory, splits, context.save)


def write_records(
  directory: epath.PathLike,
  splits: Mapping[str, Iterable[tuple[str, dict[str, Any]]]],
  beside: Callable[[epath.Path], None] | None = None,
) -> None:
  """Write only the records of a latents dataset.

  All records must have arrays of the same shapes as the first one.

  Args:
    directory: see `records.write`.
    splits: (key, record) pairs of each split, with padded texts.
    beside: see `records.write`.

  Raises:
    InputError: see `records.write`; or there are no records.
  """
  streams = {split: _Peeked(stream) for split, stream in splits.items()}
  heads = [stream.head for stream in streams.values() if stream.head is not None]
  if not heads:
    raise InputError(f'{directory}: there are no clips to encode')
  texts = {name: list(array.shape) for name, array in heads[0][1].items() if _is_text(name)}
  records.write(
    directory,
    NAME,
    VERSION,
    _features(heads[0][1]),
    {split: _Trimmed(stream) for split, stream in streams.items()},
    {'padded': texts},
    beside,
  )


def trimmed(array: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Return the valid tokens of texts, concatenated.

  Args:
    array: [N, ...] of one text, or [L, N, ...] of L texts.
    counts: number of valid tokens, int [] or [L].

  Returns:
    [sum of counts, ...].
  """
  if not counts.ndim:
    return array[: int(counts)]
  return np.concatenate([text[:count] for text, count in zip(array, counts, strict=True)])


def fill(array: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
  """Invert `trimmed` in place.

  Args:
    array: zeros, [N, ...] of one text or [L, N, ...] of L texts; receives the tokens.
    tokens: valid tokens, concatenated: [sum of counts, ...].
    counts: number of valid tokens, int [] or [L].
  """
  if not counts.ndim:
    array[: len(tokens)] = tokens
    return
  start = 0
  for text, count in zip(array, counts.tolist(), strict=True):
    text[:count] = tokens[start : start + count]
    start += count


def _is_text(name: str) -> bool:
  return name.startswith('text.') and not name.endswith(_COUNT)


class _Trimmed:
  """(key, record) pairs with unpadded texts."""

  def __init__(self, items: '_Peeked'):
    self._items = items

  def __length_hint__(self) -> int:
    return operator.length_hint(self._items)

  def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, record in self._items:
      texts = {
        name: trimmed(array, np.asarray(record[name + _COUNT]))
        for name, array in record.items()
        if _is_text(name)
      }
      yield key, record | texts


class _Peeked:
  """An iterable with access to its first item before iteration."""

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
    shape = array.shape
    if _is_text(name):
      texts = np.asarray(record[name + _COUNT]).ndim
      shape = (None, *shape[1 + texts :])
    return tfds.features.Tensor(shape=shape, dtype=array.dtype, encoding='bytes')

  return {name: feature(name, value) for name, value in record.items()}
