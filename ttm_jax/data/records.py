"""Datasets on disk: named splits of records, written once, read with random access.

A thin layer over TensorFlow Datasets (TFDS) that does not need TensorFlow. TFDS defines the
features and the record format. ArrayRecord files hold the records in the order written.
`tfds.builder_from_directory` can read the datasets. This module does not use it, because a builder
runs code that the files name (see `data.description`).
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
# Latents and encoded videos hardly compress, and decompression took most of the read time.
_OPTIONS = 'group_size:1,uncompressed'


class ShardWriter:
  """Writes one ArrayRecord file.

  Attributes:
    records: number of records written.
    bytes: number of record bytes written.
  """

  def __init__(self, path: epath.PathLike, features: tfds.features.FeaturesDict):
    self._path, self._features = os.fspath(path), features
    self._serializer = tfds.core.example_serializer.ExampleSerializer(
      features.get_serialized_info()
    )
    self._writer = ArrayRecordWriter(self._path, _OPTIONS)
    self.records, self.bytes = 0, 0

  def write(self, example: Example) -> None:
    """Append a record.

    Raises:
      OSError: the file cannot be written.
    """
    record = self._serializer.serialize_example(self._features.encode_example(example))
    with self._errors():
      self._writer.write(record)
    self.records += 1
    self.bytes += len(record)

  def close(self) -> None:
    """Finish the file. A full disk may raise an error only here.

    Raises:
      OSError: the file cannot be written.
    """
    with self._errors():
      self._writer.close()

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    try:
      yield
    except (RuntimeError, ValueError) as error:  # The C++ writer raises these for system errors.
      raise OSError(errno.EIO, _first_line(error).split(';')[0], self._path) from error


def describe(
  directory: epath.PathLike,
  name: str,
  version: str,
  features: tfds.features.FeaturesDict,
  splits: Sequence[tfds.core.SplitInfo],
  metadata: Mapping[str, Any] | None,
) -> None:
  """Write the TFDS description files (`dataset_info.json`, `features.json`) of a dataset."""
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
  """Write a dataset directly into `directory`, atomically.

  Args:
    directory: must not exist or must be empty. A local path or a URL that etils supports (gs://).
      Local files are first written to a uniquely named sibling folder; if this process is killed,
      the next writer removes it. For URLs the temporary folder is `directory.incomplete`.
    name: the kind of record, e.g. `clips`.
    version: the version of the record layout, e.g. `1.0.0`.
    features: TFDS features by field.
    splits: (key, example) pairs of each split, with unique keys. Progress bars show a total for
      splits with a length or length hint.
    metadata: JSON-serializable metadata of the dataset.
    beside: writes additional files into the folder before it appears.

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
  """Raise InputError if `directory` is a file or a folder that is not empty."""
  path = epath.Path(directory)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise InputError(f'{path}: already in use; remove it or name another folder')


@contextlib.contextmanager
def _new_remote(path: epath.Path) -> Iterator[epath.Path]:
  """Variant of `atomic.new_folder` for buckets, which lack locks and atomic folder renames."""
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
  """Yield the examples with a progress bar on stderr.

  Raises:
    InputError: two examples share a key, or there are none.
  """
  keys = set()
  total = operator.length_hint(examples) or None
  rare = 0.5 if sys.stderr.isatty() else 30  # Seconds; keeps log files short.
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
  """One split of a dataset on disk, with random access. Usable as a Grain data source.

  Opening reads two small files. A pickle holds only the path, split, and expected name and version.
  The files cannot cause imports, code execution or reads of shards outside the folder. Reading a
  record reads one region of one file. Records are dicts by field; strings are returned as bytes.

  Attributes:
    directory: path or URL of the dataset.
    split: name of the split.
    name: the kind of record.
    version: the version of the record layout, e.g. `1.0.0`.
    metadata: the metadata that the writer attached to the dataset.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    split: str,
    name: str | None = None,
    version: str | None = None,
  ):
    """Open a split.

    Args:
      directory: the `directory` passed to `write`.
      split: name of the split.
      name: the expected kind of record; None accepts any.
      version: the version that the caller can read; the major version must match. None accepts any.

    Raises:
      InputError: the dataset or split does not exist, the split is empty, a file is missing, or the
        kind or major version differs.
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
    self._checked: set[int] = set()  # Shards that passed `check_growth`.

  @functools.cached_property
  def features(self) -> tfds.features.FeaturesDict:
    """The features of a record by field, as described by the dataset.

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
    """Return record `index`, 0 <= index < len.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt.
    """
    return self.take(index, self.features.deserialize_example_np)

  def take(self, index: int, parse: Callable[[bytes], Any]) -> Any:
    """Return the result of `parse` for the bytes of record `index`.

    Args:
      index: number of the record, 0 <= index < len.
      parse: called with a serialized `tf.train.Example`.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt, or `parse` raised an exception.
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
    except Exception as error:  # ArrayRecord and TFDS raise many exception types for corrupt bytes.
      raise InputError(
        f'{self.file_of(index)}: record {index} of split "{self.split}" cannot be read'
        f' ({_first_line(error)}); copy or write the data set again'
      ) from error

  def file_of(self, index: int) -> str:
    """Return the path or URL of the file that holds record `index`."""
    return self._shards[bisect.bisect_right(self._ends, index)].filename

  def indices_in(self, file: str) -> range:
    """Return the record indices in a file of the split; empty for unknown files.

    Args:
      file: name of the file, without folders.
    """
    start = 0
    for shard in self._shards:
      if os.path.basename(shard.filename) == file:
        return range(start, start + shard.take)
      start += shard.take
    return range(0)


def _files(directory: str) -> set[str]:
  """Return the names of the files in a folder.

  For local folders only regular files, because reading a pipe or a device could block forever.
  """
  if not is_local(directory):
    return {file.name for file in epath.Path(directory).iterdir()}
  with os.scandir(directory) as entries:
    return {entry.name for entry in entries if entry.is_file()}


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def splits(directory: epath.PathLike) -> tuple[str, ...]:
  """Return the names of the splits of the dataset in a folder.

  Raises:
    InputError: there is no dataset, or its description is corrupt.
  """
  return tuple(read_description(directory).splits)


def count(directory: epath.PathLike, split: str) -> int:
  """Return the number of records of a split, 0 if there is no such split.

  Raises:
    InputError: there is no dataset, or its description is corrupt.
  """
  return sum(shard.take for shard in read_description(directory).splits.get(split, ()))
