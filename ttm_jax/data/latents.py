"""The latents dataset: what `encode` writes and training reads.

On disk, texts are as long as their tokens that count; read, they are padded with zeros. The
metadata of the dataset say how long. (Of 256 tokens a caption fills 40, of eight prompts two are
there: padding would be most of a record.)

Lengths come from files: those of the dataset are checked when it is opened, against its context,
and those of a record when it is read, before anything is allocated.
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

from ttm_jax.data import context as contexts
from ttm_jax.data import records
from ttm_jax.data.clips import decode_ids
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.wire import bytes_fields
from ttm_jax.errors import InputError

NAME, VERSION = 'latents', '2.0.0'

# Strings and compressed label maps: not part of a training batch.
_APART = ('key', 'ids')
_COUNT = '_length'  # Beside each text: how many of its tokens count.
_MAX_TEXT = 2**30  # Bytes of one padded text of a record; UL2's eight prompts take 2**22.


class Latents:
  """One split of a latents dataset: `source[i]` is the dict of arrays of `data.batch`."""

  def __init__(self, directory: epath.PathLike, split: str):
    """Opens a split.

    Raises:
      InputError: see `records.Records`.
    """
    self.records = records.Records(directory, split, NAME, VERSION)
    self._layout = _read_layout(self.records)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """The arrays of record `index`, padded.

    Raises:
      InputError: the file that holds it is damaged.
    """
    return {name: array[0] for name, array in self.collate([self.stored[index]]).items()}

  @property
  def stored(self) -> 'Stored':
    """The records without the padding of their texts, for `collate`."""
    return Stored(self.records, self._layout)

  def collate(self, records: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A batch of `stored` records; padding is not written, memory comes as zeros."""
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
    """Record `index` as it lies on disk: its arrays, and the bytes `key` and `ids`.

    Raises:
      InputError: the file that holds it is damaged.
    """

    def parse(serialized: bytes) -> dict[str, Any]:
      fields = _fields(serialized, _APART)
      return {**arrays(serialized), **{name: bytes(fields[name]) for name in _APART}}

    arrays = self.stored.parse
    return self.records.take(index, parse)

  def ids(self, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """The label maps that a record was made of, uint8 (T, H, W) = shape.

    Raises:
      InputError: the file that holds it is damaged.
    """
    return self.records.take(
      index, lambda serialized: decode_ids(bytes(_fields(serialized, ['ids'])['ids']), shape)
    )

  def key(self, index: int) -> str:
    """The clip that a record was made of, without its variant.

    Raises:
      InputError: the file that holds it is damaged.
    """
    return self.full_key(index).rsplit('#', 1)[0]

  def full_key(self, index: int) -> str:
    """The key of a record: of its clip, and its variant.

    Raises:
      InputError: the file that holds it is damaged.
    """
    return self.records.take(
      index, lambda serialized: bytes(_fields(serialized, ['key'])['key']).decode()
    )


@dataclasses.dataclass(frozen=True)
class _Layout:
  """What the arrays of all records have in common.

  Attributes:
    arrays: dtype and shape of each array; -1 is the number of tokens of a text.
    padded: the shape of each text in a batch.
  """

  arrays: dict[str, tuple[np.dtype, tuple[int, ...]]]
  padded: dict[str, tuple[int, ...]]


def _read_layout(source: records.Records) -> _Layout:
  """Read the layout that a dataset states, and check it.

  Raises:
    InputError: sizes that do not go together, that exceed any memory, or that differ from those in
      the context of the dataset.
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
        f'"padded" in metadata.json has {shape!r:.100} for {name!r:.100}, which is no shape'
      )
    counts = arrays.get(name + _COUNT)
    if counts is None or counts[0].kind not in 'iu' or len(counts[1]) > 1 or -1 in counts[1]:
      raise bad(f'the number of tokens of {name!r:.100} is missing or no whole number')
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
  """The beginning of the padded shape of a text, as the context of its dataset has it."""
  encoder, _, field = name.removeprefix('text.').rpartition('.')
  if encoder not in encoding.encoders:
    return []
  settings = encoding.encoders[encoder]
  if field == 'prompts':
    return [encoding.max_objects, settings.prompt_length]
  return [settings.length]


def _fields(serialized: bytes, wanted: Iterable[str]) -> dict[str, memoryview]:
  """The fields of a record.

  Raises:
    ValueError: one that is wanted is missing, or it is no record.
  """
  fields = bytes_fields(serialized)
  for name in wanted:
    if name not in fields:
      raise ValueError(f'it has no {name}')
  return fields


class Stored:
  """Records as they lie on disk, with random access.

  They are read as TFDS reads them, but for its care for kinds of features that are not here: of the
  small records of the demo that was half of the work.
  """

  def __init__(self, source: records.Records, layout: _Layout):
    self._records, self._layout = source, layout

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """The arrays of record `index`, read-only.

    Raises:
      InputError: the file that holds it is damaged.
    """
    return self._records.take(index, self.parse)

  def parse(self, serialized: bytes) -> dict[str, np.ndarray]:
    """The arrays of a record in serialized bytes.

    Raises:
      ValueError: sizes that are not those of the dataset.
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
  """Writes a dataset of `encode.EncodedClips` records, and its context.

  Raises:
    InputError: see `records.write`.
  """
  write_records(directory, splits, context.save)


def write_records(
  directory: epath.PathLike,
  splits: Mapping[str, Iterable[tuple[str, dict[str, Any]]]],
  beside: Callable[[epath.Path], None] | None = None,
) -> None:
  """Writes the records alone; all have arrays of the shapes of the first.

  Args:
    beside: see `records.write`.

  Raises:
    InputError: see `records.write`, or there are none.
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
  """Only the tokens that count, one text after the other.

  Args:
    array: [N, ...] of one text, or [L, N, ...] of L texts.
    counts: int [] or [L].
  """
  if not counts.ndim:
    return array[: int(counts)]
  return np.concatenate([text[:count] for text, count in zip(array, counts, strict=True)])


def fill(array: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
  """The inverse of `trimmed`, into an array of zeros."""
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
  """Records as they lie on disk."""

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
    shape = array.shape
    if _is_text(name):
      texts = np.asarray(record[name + _COUNT]).ndim
      shape = (None, *shape[1 + texts :])
    return tfds.features.Tensor(shape=shape, dtype=array.dtype, encoding='bytes')

  return {name: feature(name, value) for name, value in record.items()}
