"""Read the description of a dataset without running code that its files name.

TFDS imports the classes named in `features.json`, the module named in `dataset_info.json`, and code
stored next to a dataset. This module treats the files as plain data. It creates only the feature
classes that `records.write` uses, and accepts only shards inside the folder of the dataset.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ttm_jax.errors import InputError
from ttm_jax.json_file import read_object

FORMAT = 'array_record'
INFO, FEATURES, METADATA = 'dataset_info.json', 'features.json', 'metadata.json'

_REMEDY = 'copy or write the dataset again'
_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'  # The default of TFDS.
_VERSION = re.compile(r'\d{1,9}\.\d{1,9}\.\d{1,9}', re.ASCII)
_NUMBER = re.compile(r'-?\d{1,18}', re.ASCII)
_MOST = 2**48  # Upper bound for the records of a shard and for the size of a dimension.
_DEEPEST = 8  # Maximum nesting depth of features.
_DTYPES = frozenset(
  {'bool', 'float16', 'float32', 'float64'}
  | {f'{sign}int{bits}' for sign in ('', 'u') for bits in (8, 16, 32, 64)}
)


@dataclasses.dataclass(frozen=True)
class DatasetShard:
  """One ArrayRecord file, in the form that `ArrayRecordDataSource` expects.

  Attributes:
    filename: path or URL.
    skip: number of records to skip at the start.
    take: number of records to read.
    examples_in_shard: number of records in the file.
  """

  filename: str
  skip: int
  take: int
  examples_in_shard: int


@dataclasses.dataclass(frozen=True)
class DatasetDescription:
  """The contents of `dataset_info.json` and `metadata.json`.

  Attributes:
    name: the kind of record, e.g. `clips`.
    version: the version of the record layout, e.g. `1.0.0`.
    splits: the non-empty shards of each split, in order.
    metadata: the metadata that the writer attached to the dataset.
  """

  name: str
  version: str
  splits: Mapping[str, tuple[DatasetShard, ...]]
  metadata: dict[str, Any]


def read_description(directory: epath.PathLike) -> DatasetDescription:
  """Read the description of the dataset in a folder.

  Raises:
    InputError: the folder has no dataset, a description file is corrupt, the format is not
      ArrayRecord, or a shard name points outside the folder.
  """
  folder = epath.Path(directory)
  if not (folder / INFO).exists():
    raise InputError(f'{directory}: not a data set (no {INFO}); check the path')
  info = read_object(folder / INFO, _REMEDY)
  where = f'{folder / INFO}'
  name = _text(where, info, 'name')
  version = _text(where, info, 'version')
  if not _VERSION.fullmatch(version):
    raise _damaged(where, f'"version" is {version!r:.100}, not like "1.0.0"')
  if info.get('fileFormat') != FORMAT:
    raise InputError(
      f'{where}: the file format is {info.get("fileFormat")!r:.100}, but only "{FORMAT}" is read;'
      ' write the dataset as ArrayRecord'
    )
  found = info.get('splits', [])
  if not isinstance(found, list) or not found:
    raise _damaged(where, '"splits" is not a list of splits')
  splits: dict[str, tuple[DatasetShard, ...]] = {}
  for split in found:
    if not isinstance(split, dict):
      raise _damaged(where, 'a split is not an object')
    called = _text(where, split, 'name')
    if called in splits:
      raise _damaged(where, f'two splits are called {called!r:.100}')
    splits[called] = _shards(where, folder, name, called, split)
  metadata = {}
  if (folder / METADATA).exists():
    metadata = read_object(folder / METADATA, _REMEDY)
  return DatasetDescription(name, version, splits, metadata)


def read_features(directory: epath.PathLike) -> tfds.features.FeaturesDict:
  """Return the features of the records in a folder.

  Supported are dictionaries, texts, tensors (encoded as numbers or raw bytes) and sequences of
  these. No class is imported by a name in the file.

  Raises:
    InputError: the file is corrupt, or names another class, dtype or encoding.
  """
  path = epath.Path(directory) / FEATURES
  made = _feature(f'{path}', read_object(path, _REMEDY), 0)
  if not isinstance(made, tfds.features.FeaturesDict):
    raise _damaged(f'{path}', 'it does not describe a dictionary of features')
  return made


def _shards(
  where: str, folder: epath.Path, name: str, split: str, entry: Mapping[str, Any]
) -> tuple[DatasetShard, ...]:
  lengths = entry.get('shardLengths', [])
  if not isinstance(lengths, list):
    raise _damaged(where, f'"shardLengths" of split {split!r:.100} is not a list')
  counts = [_number(where, 'shardLengths', length, 0) for length in lengths]
  template = entry.get('filepathTemplate') or _TEMPLATE
  if not isinstance(template, str):
    raise _damaged(where, f'"filepathTemplate" of split {split!r:.100} is not a text')
  shards = []
  for index, count in enumerate(counts):
    values = {
      'DATASET': name,
      'SPLIT': split,
      'FILEFORMAT': FORMAT,
      'SHARD_INDEX': f'{index:05d}',
      'NUM_SHARDS': f'{len(counts):05d}',
      'SHARD_X_OF_Y': f'{index:05d}-of-{len(counts):05d}',
    }
    unknown = set(re.findall(r'\{(\w*)\}', template)) - set(values)
    if unknown:
      raise _damaged(where, f'"filepathTemplate" has the unknown field {min(unknown)!r:.100}')
    file = template
    for field, value in values.items():
      file = file.replace(f'{{{field}}}', value)
    if file in ('', '.', '..') or '/' in file or '\0' in file:
      raise InputError(
        f'{where}: the shard {file!r:.200} is not a file of the folder itself; {_REMEDY}'
      )
    if count:
      shards.append(DatasetShard(os.fspath(folder / file), 0, count, count))
  return tuple(shards)


def _feature(where: str, entry: Any, depth: int) -> tfds.features.FeatureConnector:
  """Create the feature that a JSON object describes."""
  if not isinstance(entry, dict):
    raise _damaged(where, 'a feature is not an object')
  if depth > _DEEPEST:
    raise _damaged(where, f'features are nested more than {_DEEPEST} deep')
  kind = entry.get('pythonClassName')
  make = _MAKERS.get(kind) if isinstance(kind, str) else None
  if make is None:
    raise InputError(
      f'{where}: a feature is of the class {kind!r:.200}; only {", ".join(sorted(_MAKERS))} are'
      ' read, and code that a dataset names is not run; write the dataset by the tools of ttm_jax'
    )
  return make(where, entry, depth)


def _dictionary(where: str, entry: Mapping, depth: int) -> tfds.features.FeaturesDict:
  inner = _object(where, entry, 'featuresDict', 'features')
  return tfds.features.FeaturesDict(
    {name: _feature(where, feature, depth + 1) for name, feature in inner.items()}
  )


def _tensor(where: str, entry: Mapping, depth: int) -> tfds.features.Tensor:
  tensor = _object(where, entry, 'tensor')
  dtype, encoding = tensor.get('dtype'), tensor.get('encoding', 'none')
  if dtype not in _DTYPES:
    raise _damaged(where, f'a tensor has the dtype {dtype!r:.100}')
  if encoding not in ('none', 'bytes'):
    raise InputError(
      f'{where}: a tensor has the encoding {encoding!r:.100}; only "none" and "bytes" are read;'
      ' write the dataset by the tools of ttm_jax'
    )
  dimensions = _object(where, tensor, 'shape').get('dimensions', [])
  if not isinstance(dimensions, list) or len(dimensions) > 32:
    raise _damaged(where, 'the shape of a tensor is not a list of at most 32 sizes')
  sizes = [_number(where, 'dimensions', size, -1) for size in dimensions]
  shape = tuple(None if size == -1 else size for size in sizes)
  return tfds.features.Tensor(shape=shape, dtype=np.dtype(dtype), encoding=encoding)


def _sequence(where: str, entry: Mapping, depth: int) -> tfds.features.Sequence:
  sequence = _object(where, entry, 'sequence')
  length = _number(where, 'length', sequence.get('length', -1), -1)
  inner = _feature(where, sequence.get('feature'), depth + 1)
  return tfds.features.Sequence(inner, length=None if length == -1 else length)


def _words(where: str, entry: Mapping, depth: int) -> tfds.features.Text:
  return tfds.features.Text()


_CLASSES = 'tensorflow_datasets.core.features'
_MAKERS: dict[str, Callable[[str, Mapping, int], tfds.features.FeatureConnector]] = {
  f'{_CLASSES}.features_dict.FeaturesDict': _dictionary,
  f'{_CLASSES}.tensor_feature.Tensor': _tensor,
  f'{_CLASSES}.sequence_feature.Sequence': _sequence,
  f'{_CLASSES}.text_feature.Text': _words,
}


def _object(where: str, entry: Mapping[str, Any], *fields: str) -> Mapping[str, Any]:
  """Return the JSON object at a path of nested fields."""
  value: Any = entry
  for field in fields:
    value = value.get(field) if isinstance(value, dict) else None
  if not isinstance(value, dict):
    raise _damaged(where, f'a feature has no object "{".".join(fields)}"')
  return value


def _text(where: str, entry: Mapping[str, Any], field: str) -> str:
  value = entry.get(field)
  if not isinstance(value, str) or not value:
    raise _damaged(where, f'"{field}" is {value!r:.100}, not a text')
  return value


def _number(where: str, field: str, value: Any, least: int) -> int:
  """Return an integer; the JSON form of protocol buffers stores int64 as strings."""
  if isinstance(value, str) and _NUMBER.fullmatch(value):
    value = int(value)
  if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
    raise _damaged(where, f'"{field}" holds {value!r:.100}, not a number from {least} to {_MOST}')
  return value


def _damaged(where: str, what: str) -> InputError:
  return InputError(f'{where}: damaged ({what}); {_REMEDY}')
