"""Data sets on disk: named splits of records with random access, written once, read many times.

A thin layer on TensorFlow Datasets that needs no TensorFlow: TFDS describes the features and the
records, which lie in the order given in ArrayRecord files. `tfds.builder_from_directory` reads what
this module writes. This module itself does not read by it: a builder runs code that the files name
(see `data.description`).
"""

import bisect
import contextlib
import errno
import functools
import itertools
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from ttm_jax.atomic import new_folder
from ttm_jax.data.chunks import check_growth
from ttm_jax.data.description import FORMAT, read_description, read_features
from ttm_jax.data.storage import is_local
from ttm_jax.errors import InputError, nearest

Example = dict[str, Any]
Splits = Mapping[str, Iterable[tuple[str, Example]]]

EXAMPLES_PER_SHARD = 1024
# Latents and encoded videos do not get smaller; to decompress them took most of a reader's time.
_OPTIONS = 'group_size:1,uncompressed'


class ShardWriter:
  """Writes one ArrayRecord file.

  Attributes:
    records, bytes: how many were written.
  """

  def __init__(self, path: epath.PathLike, features: tfds.features.FeaturesDict):
    self._path, self._features = os.fspath(path), features
    self._serializer = tfds.core.example_serializer.ExampleSerializer(
      features.get_serialized_info()
    )
    self._writer = ArrayRecordWriter(self._path, _OPTIONS)
    self.records, self.bytes = 0, 0

  def write(self, example: Example) -> None:
    """Adds a record.

    Raises:
      OSError: it cannot be written.
    """
    record = self._serializer.serialize_example(self._features.encode_example(example))
    with self._errors():
      self._writer.write(record)
    self.records += 1
    self.bytes += len(record)

  def close(self) -> None:
    """Makes the file whole; a disk that is full may show only now.

    Raises:
      OSError: it cannot be written.
    """
    with self._errors():
      self._writer.close()

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    try:
      yield
    except (RuntimeError, ValueError) as error:  # What the C++ code makes of those of the system.
      raise OSError(errno.EIO, _first_line(error).split(';')[0], self._path) from error


def describe(
  directory: epath.PathLike,
  name: str,
  version: str,
  features: tfds.features.FeaturesDict,
  splits: Sequence[tfds.core.SplitInfo],
  metadata: Mapping[str, Any] | None,
) -> None:
  """Makes files a data set: writes what TFDS wants to know of them."""
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name, tfds.core.Version(version), os.fspath(directory), module_name=__name__
    ),
    features=features,
    metadata=tfds.core.MetadataDict(dict(metadata or {})),
  )
  info.set_file_format(FORMAT)
  info.set_splits(tfds.core.splits.SplitDict(list(splits)))
  info.write_to_directory(os.fspath(directory))


def write(
  directory: epath.PathLike,
  name: str,
  version: str,
  features: Mapping[str, Any],
  splits: Splits,
  metadata: dict[str, Any] | None = None,
  beside: Callable[[epath.Path], None] | None = None,
) -> None:
  """Writes a data set whose files lie in `directory` itself, or nothing at all.

  Args:
    directory: must not exist or be empty. Local, or an address that etils understands (gs://).
      The files grow in a folder of a unique name beside it, which the next writer removes if this
      one is killed; at an address, in `directory.incomplete`.
    name: of the kind of record, e.g. `clips`.
    version: of the layout of the record, e.g. `1.0.0`.
    features: TFDS features by field.
    splits: unique keys and examples. A split with a `len` gets a progress bar with an end.
    metadata: anything JSON can hold, about the whole data set.
    beside: writes more into the folder, before it appears.

  Raises:
    InputError: `directory` is in use or cannot be written, a split is empty, or two examples share
      a key.
  """
  path = epath.Path(directory)
  whole = tfds.features.FeaturesDict(dict(features))
  try:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
      raise InputError(f'{path}: already in use; remove it or name another folder')
    with new_folder(path) if is_local(directory) else _new_remote(path) as incomplete:
      folder = epath.Path(incomplete)
      infos = [
        _write_split(folder, name, split, whole, _checked(path, split, examples))
        for split, examples in splits.items()
      ]
      describe(folder, name, version, whole, infos, metadata)
      if beside is not None:
        beside(folder)
  except OSError as error:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    remedy = 'free space or name another folder' if full else 'name another folder'
    raise InputError(f'cannot write {path} ({error.strerror or error}); {remedy}') from error


def check_unused(directory: epath.PathLike) -> None:
  """Raise InputError if a data set cannot be written here: there is something already."""
  path = epath.Path(directory)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise InputError(f'{path}: already in use; remove it or name another folder')


@contextlib.contextmanager
def _new_remote(path: epath.Path) -> Iterator[epath.Path]:
  """Like `atomic.new_folder` for a bucket, where folders have neither locks nor a rename."""
  incomplete = path.parent / f'{path.name}.incomplete'
  if incomplete.exists():
    incomplete.rmtree()
  try:
    incomplete.mkdir(parents=True)
    yield incomplete
    if path.exists():
      path.rmdir()
    incomplete.rename(path)
  finally:
    if incomplete.exists():
      incomplete.rmtree()


def _checked(
  path: epath.Path, split: str, examples: Iterable[tuple[str, Example]]
) -> Iterator[Example]:
  """Passes the examples on, with a progress bar on stderr."""
  keys = set()
  total = operator.length_hint(examples) or None
  rare = 0.5 if sys.stderr.isatty() else 30  # Seconds; a log file wants few lines.
  for key, example in tqdm.tqdm(examples, split, total, unit=' records', mininterval=rare):
    if key in keys:
      raise InputError(f'{path}: split "{split}" has two records of key "{key}"; make keys unique')
    keys.add(key)
    yield example
  if not keys:
    raise InputError(f'{path}: split "{split}" would be empty; give it records or leave it out')


def _write_split(
  folder: epath.Path,
  name: str,
  split: str,
  features: tfds.features.FeaturesDict,
  examples: Iterator[Example],
) -> tfds.core.SplitInfo:
  template = tfds.core.ShardedFileTemplate(
    template='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}',
    data_dir=folder,
    dataset_name=name,
    split=split,
    filetype_suffix=FORMAT,
  )
  lengths: list[int] = []
  size = 0
  for example in examples:
    path = template.sharded_filepath(shard_index=len(lengths), num_shards=None)
    writer = ShardWriter(path, features)
    for one in itertools.chain([example], itertools.islice(examples, EXAMPLES_PER_SHARD - 1)):
      writer.write(one)
    writer.close()
    lengths.append(writer.records)
    size += writer.bytes
  return tfds.core.SplitInfo(
    name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
  )


class Records:
  """One split of a data set on disk, with random access: a source for Grain.

  Opening reads two small files; pickling carries the address only. No file can make it import or
  run code, or read shards outside of the folder. Reading one record touches one
  place of one file. Records are dicts by field; strings come as bytes.

  Attributes:
    directory: where the data set lies.
    split: name of the split.
    name: the kind of record.
    version: the version of the record's layout, e.g. `1.0.0`.
    metadata: what the writer said about the whole data set.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    split: str,
    name: str | None = None,
    version: str | None = None,
  ):
    """Opens a split.

    Args:
      directory: the folder that `write` was given.
      split: which split.
      name: the expected kind of record; any, if None.
      version: the version the caller can read: the first number must agree. Any, if None.

    Raises:
      InputError: there is no such data set or split, a file of it is missing, or it is of another
        kind or version.
    """
    self.directory, self.split = os.fspath(directory), split
    self._expected = (name, version)
    described = read_description(self.directory)
    self.name, self.version = described.name, described.version
    self.metadata: dict[str, Any] = described.metadata
    if name not in (None, self.name):
      raise InputError(f'{directory}: holds "{self.name}" records, not "{name}"; name another one')
    if version and version.split('.')[0] != self.version.split('.')[0]:
      raise InputError(
        f'{directory}: written as {self.name} {self.version}, but this program reads {version};'
        ' write the data set again'
      )
    if split not in described.splits:
      raise InputError(
        f'{directory}: no split "{split}"{nearest(split, described.splits)};'
        f' there is {", ".join(described.splits)}'
      )
    self._shards = described.splits[split]
    if not self._shards:
      raise InputError(f'{directory}: split "{split}" has no records; write the data set again')
    present = _files(self.directory)
    for shard in self._shards:
      if os.path.basename(shard.filename) not in present:
        raise InputError(f'{shard.filename}: missing from the data set; copy or write it again')
    self._source = ArrayRecordDataSource(self._shards)
    self._ends = list(itertools.accumulate(shard.take for shard in self._shards))
    self._checked: set[int] = set()  # Shards whose records cannot fill the memory.

  @functools.cached_property
  def features(self) -> tfds.features.FeaturesDict:
    """The features of a record by field, as the data set describes them.

    Raises:
      InputError: see `description.read_features`.
    """
    return read_features(self.directory)

  def __reduce__(self):
    return Records, (self.directory, self.split, *self._expected)

  def __repr__(self) -> str:
    return f'Records({self.directory!r}, {self.split!r}): {len(self)} {self.name} {self.version}'

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    """Record `index`, 0 <= index < len.

    Raises:
      IndexError: out of range.
      InputError: the file that holds it is damaged.
    """
    return self.take(index, self.features.deserialize_example_np)

  def take(self, index: int, parse: Callable[[bytes], Any]) -> Any:
    """What `parse` makes of the bytes of record `index`, a serialized `tf.train.Example`.

    Raises:
      IndexError: out of range.
      InputError: the file that holds it is damaged, or `parse` raised.
    """
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'{self!r}: there is no record {index}')
    try:
      shard = bisect.bisect_right(self._ends, index)
      if shard not in self._checked:
        if is_local(self.directory):
          check_growth(self._shards[shard].filename)
        self._checked.add(shard)
      return parse(self._source[index])
    except Exception as error:  # ArrayRecord and TFDS raise all kinds for damaged bytes.
      raise InputError(
        f'{self.file_of(index)}: record {index} of split "{self.split}" cannot be read'
        f' ({_first_line(error)}); copy or write the data set again'
      ) from error

  def file_of(self, index: int) -> str:
    """The file that holds record `index`."""
    return self._shards[bisect.bisect_right(self._ends, index)].filename

  def indices_in(self, file: str) -> range:
    """The records that a file of the split holds, by the name of the file; none of another's."""
    start = 0
    for shard in self._shards:
      if os.path.basename(shard.filename) == file:
        return range(start, start + shard.take)
      start += shard.take
    return range(0)


def _files(directory: str) -> set[str]:
  """The names of the regular files in a folder; reading a pipe or a device might never end."""
  if not is_local(directory):
    return {file.name for file in epath.Path(directory).iterdir()}
  with os.scandir(directory) as entries:
    return {entry.name for entry in entries if entry.is_file()}


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def splits(directory: epath.PathLike) -> tuple[str, ...]:
  """The names of the splits of the data set in a folder.

  Raises:
    InputError: there is no data set, or its description is damaged.
  """
  return tuple(read_description(directory).splits)
