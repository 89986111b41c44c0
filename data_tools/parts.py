"""Shards of a clips dataset that are written one by one, in any order, by any process.

A part is a folder `parts/00007` with one ArrayRecord file a bucket and split, and `tally.json`,
which is written last and at once: a part is finished if and only if it has one. When all are
finished the files move into the dataset without being rewritten. What a killed process leaves is
never read.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_tools.tally import Tally
from ttm_jax.data.clips import FEATURES, NAME, encode_clip
from ttm_jax.data.records import ShardWriter, describe
from ttm_jax.data.schema import VERSION, Clip
from ttm_jax.errors import InputError

TALLY = 'tally.json'
_SUFFIX = 'array_record'


class PartWriter:
  """Writes the files of one part; nothing can be seen before `finish`."""

  def __init__(self, folder: Path):
    """Args:
    folder: of the part, as `part_folder` names it; must not be finished.
    """
    self._final = folder
    # Another process may be at the same part: one that outlived its killed parent.
    self._folder = folder.with_name(f'.{folder.name}.{os.getpid()}')
    shutil.rmtree(self._folder, ignore_errors=True)
    self._folder.mkdir(parents=True)
    self._features = tfds.features.FeaturesDict(dict(FEATURES))
    self._writers: dict[tuple[str, str], ShardWriter] = {}

  def write(self, bucket: str, split: str, clip: Clip) -> None:
    """Adds a clip."""
    place = (bucket, split)
    if place not in self._writers:
      path = self._folder / _file(bucket, split)
      self._writers[place] = ShardWriter(path, self._features)
    self._writers[place].write(encode_clip(clip))

  def finish(self, tally: Tally) -> None:
    """Makes the part appear, with what became of its videos."""
    for writer in self._writers.values():
      writer.close()
    files = [[*place, writer.records, writer.bytes] for place, writer in self._writers.items()]
    (self._folder / TALLY).write_text(json.dumps({'files': files, 'tally': tally.to_json()}))
    if is_finished(self._final):  # By the other process, with the same content.
      shutil.rmtree(self._folder)
      return
    shutil.rmtree(self._final, ignore_errors=True)
    self._folder.rename(self._final)

  def abandon(self) -> None:
    """Removes what was written."""
    shutil.rmtree(self._folder, ignore_errors=True)


def part_folder(root: Path, number: int) -> Path:
  return root / 'parts' / f'{number:05d}'


def is_finished(folder: Path) -> bool:
  return (folder / TALLY).is_file()


def read_tally(folder: Path) -> tuple[list[list[Any]], Tally]:
  """The files of a finished part, each (bucket, split, records, bytes), and its tally."""
  content = json.loads((folder / TALLY).read_text())
  return content['files'], Tally.from_json(content['tally'])


def assemble(root: Path, count: int, buckets: Iterable[str], metadata: Mapping[str, Any]) -> Tally:
  """Turns finished parts 0 .. count - 1 into one dataset a bucket, and adds up their tallies.

  May be interrupted and called again. With one bucket the dataset lies in `root` itself, else in
  a folder named after the bucket.

  Raises:
    InputError: no clip came out.
  """
  total = Tally()
  files: dict[str, dict[str, list[tuple[Path, int, int]]]] = {}
  for number in range(count):
    folder = part_folder(root, number)
    written, tally = read_tally(folder)
    total.add(tally)
    for bucket, split, records, size in written:
      found = files.setdefault(bucket, {}).setdefault(split, [])
      found.append((folder / _file(bucket, split), records, size))
  if not files:
    return total
  for bucket, splits in files.items():
    place = root if len(list(buckets)) == 1 else root / bucket
    place.mkdir(exist_ok=True)
    _dataset(place, splits, metadata)
  return total


def _dataset(
  place: Path,
  splits: Mapping[str, list[tuple[Path, int, int]]],
  metadata: Mapping[str, Any],
) -> None:
  """Moves files into a TFDS dataset and describes it."""
  infos = []
  for split, shards in splits.items():
    template = tfds.core.ShardedFileTemplate(
      data_dir=os.fspath(place), dataset_name=NAME, split=split, filetype_suffix=_SUFFIX
    )
    for index, (path, _, _) in enumerate(shards):
      target = template.sharded_filepath(shard_index=index, num_shards=len(shards))
      if path.exists():
        path.rename(os.fspath(target))
      elif not target.exists():
        raise InputError(f'{path}: is missing; remove {place} and start again')
    lengths = [records for _, records, _ in shards]
    size = sum(size for _, _, size in shards)
    infos.append(
      tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
      )
    )
  features = tfds.features.FeaturesDict(dict(FEATURES))
  describe(place, NAME, VERSION, features, infos, metadata)


def _file(bucket: str, split: str) -> str:
  return f'{bucket}.{split}.{_SUFFIX}'
