"""Shards of a clips dataset that are written one by one, in any order, by any process.

A part is a folder `parts/00007` with one ArrayRecord file a bucket and split, and `tally.json`. It
appears at once, when it is complete. When all parts are there, their files move into the dataset
without being rewritten, and `shards.json` keeps what is known of each part: a later job takes parts
back from a finished dataset if the sources of their shards are unchanged.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_tools.stats import Tally
from ttm_jax import atomic
from ttm_jax.data.clips import FEATURES, NAME, encode_clip
from ttm_jax.data.records import ShardWriter, describe
from ttm_jax.data.schema import VERSION, Clip
from ttm_jax.errors import InputError

TALLY, SHARDS = 'tally.json', 'shards.json'
SPLITS = ('train', 'validation')
_SUFFIX = 'array_record'
# What reading a damaged file of ours may raise.
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_BUCKET = re.compile(r'\d+x\d+x\d+')


@dataclasses.dataclass(frozen=True)
class File:
  """One file of a part: where its clips go, how many there are, and their bytes."""

  bucket: str
  split: str
  records: int
  bytes: int

  @property
  def name(self) -> str:
    return f'{self.bucket}.{self.split}.{_SUFFIX}'


@dataclasses.dataclass(frozen=True)
class Part:
  """What is known of a finished part.

  Attributes:
    digest: of the shard that it was made of.
    files: those that hold its clips.
    tally: what became of its videos.
  """

  digest: str
  files: tuple[File, ...]
  tally: Tally

  def to_json(self) -> dict[str, Any]:
    files = [dataclasses.astuple(file) for file in self.files]
    return {'digest': self.digest, 'files': files, 'tally': self.tally.to_json()}

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Part':
    files = tuple(File(*file) for file in content['files'])
    if not all(_BUCKET.fullmatch(file.bucket) and file.split in SPLITS for file in files):
      raise ValueError('a file outside the dataset')
    return cls(content['digest'], files, Tally.from_json(content['tally']))


class PartWriter:
  """Writes the files of one part, see `new_part`."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._features = tfds.features.FeaturesDict(dict(FEATURES))
    self._writers: dict[tuple[str, str], ShardWriter] = {}

  def write(self, bucket: str, split: str, clip: Clip) -> None:
    """Add a clip.

    Raises:
      OSError: it cannot be written.
    """
    place = (bucket, split)
    if place not in self._writers:
      path = self._folder / File(bucket, split, 0, 0).name
      self._writers[place] = ShardWriter(path, self._features)
    self._writers[place].write(encode_clip(clip))

  def close(self) -> tuple[File, ...]:
    """Complete the files, and return what they hold.

    Raises:
      OSError: they cannot be written.
    """
    for writer in self._writers.values():
      writer.close()
    return tuple(File(*place, w.records, w.bytes) for place, w in self._writers.items())


@contextlib.contextmanager
def new_part(folder: Path, digest: str, tally: Tally) -> Iterator[PartWriter]:
  """Yield a writer of clips; on success the part appears as `folder`, with its tally.

  Args:
    folder: of the part, as `part_folder` names it.
    digest: of the shard.
    tally: is filled while clips are written.

  Raises:
    OSError: it cannot be written.
  """
  try:
    with atomic.new_folder(folder) as partial:
      writer = PartWriter(partial)
      yield writer
      part = Part(digest, writer.close(), tally)
      (partial / TALLY).write_text(json.dumps(part.to_json()))
  except InputError:
    # A runner may give one shard to two machines: the first to finish has written the same.
    if not is_finished(folder):
      raise


def part_folder(root: Path, number: int) -> Path:
  return root / 'parts' / f'{number:05d}'


def is_finished(folder: Path) -> bool:
  return (folder / TALLY).is_file()


def read_part(folder: Path) -> Part | None:
  """Return a finished part; None where there is none, or one that this version did not write."""
  try:
    return Part.from_json(json.loads((folder / TALLY).read_text()))
  except _DAMAGED:
    return None


def keep(root: Path, digests: Sequence[str], buckets: Sequence[str]) -> int:
  """Remove all finished parts but those made of the shards with these digests, in this order.

  Returns:
    how many are kept.
  """
  _move_back(root, buckets)
  for folder in (root / 'parts').iterdir() if (root / 'parts').is_dir() else ():
    number = int(folder.name) if folder.name.isdecimal() else -1
    part = read_part(folder)
    wanted = digests[number] if 0 <= number < len(digests) else None
    whole = part and all((folder / file.name).is_file() for file in part.files)
    if not part or part.digest != wanted or not whole:
      shutil.rmtree(folder)
  return sum(is_finished(part_folder(root, number)) for number in range(len(digests)))


def _move_back(root: Path, buckets: Sequence[str]) -> None:
  """Undo what an interrupted `assemble` has moved. It begins only when all parts are there."""
  parts: list[Part] = []
  while part := read_part(part_folder(root, len(parts))):
    parts.append(part)
  for number, file, target in _targets(root, parts, buckets):
    source = part_folder(root, number) / file.name
    if target.exists() and not source.exists():
      target.rename(source)


def take_back(dataset: Path, root: Path, digests: Sequence[str], buckets: Sequence[str]) -> None:
  """Make parts of those shards of a finished dataset whose sources are unchanged.

  Files are linked where the file system can, else copied; the dataset stays as it is.

  Raises:
    OSError: a part cannot be written.
  """
  _, parts = read_shards(dataset) or ({}, [])
  places: dict[int, list[tuple[File, Path]]] = {}
  for number, file, target in _targets(dataset, parts, buckets):
    places.setdefault(number, []).append((file, target))
  known = {part.digest: number for number, part in enumerate(parts)}
  for number, digest in enumerate(digests):
    folder = part_folder(root, number)
    if digest not in known or is_finished(folder):
      continue
    files = places.get(known[digest], [])
    if not all(path.is_file() for _, path in files):
      continue
    with atomic.new_folder(folder) as partial:
      for file, path in files:
        _link(path, partial / file.name)
      (partial / TALLY).write_text(json.dumps(parts[known[digest]].to_json()))


def _link(source: Path, target: Path) -> None:
  try:
    os.link(source, target)
  except OSError:
    shutil.copyfile(source, target)


def assemble(
  root: Path, count: int, buckets: Sequence[str], metadata: Mapping[str, Any]
) -> tuple[Tally, list[Part]]:
  """Turn finished parts 0 .. count - 1 into one dataset a bucket, and add up their tallies.

  May be interrupted and called again. With one bucket the dataset lies in `root` itself, else in
  a folder named after the bucket.

  Raises:
    InputError: a file is missing.
  """
  total, found = Tally(), []
  for number in range(count):
    part = read_part(part_folder(root, number))
    if part is None:
      raise InputError(f'{part_folder(root, number)}: is missing; run the same command again')
    total.add(part.tally)
    found.append(part)
  splits: dict[Path, dict[str, list[File]]] = {}
  for number, file, target in _targets(root, found, buckets):
    path = part_folder(root, number) / file.name
    target.parent.mkdir(exist_ok=True)
    if path.exists():
      path.rename(target)
    elif not target.exists():
      raise InputError(f'{path}: is missing; remove {root} and start again')
    splits.setdefault(target.parent, {}).setdefault(file.split, []).append(file)
  for place, files in splits.items():
    _describe(place, files, metadata)
  return total, found


def _targets(
  root: Path, parts: Sequence[Part], buckets: Sequence[str]
) -> Iterator[tuple[int, File, Path]]:
  """Every file of the parts: the number of its part, and its place in the dataset under `root`."""
  found: dict[tuple[str, str], list[tuple[int, File]]] = {}
  for number, part in enumerate(parts):
    for file in part.files:
      found.setdefault((file.bucket, file.split), []).append((number, file))
  for (bucket, split), files in found.items():
    template = _template(root if len(buckets) == 1 else root / bucket, split)
    for index, (number, file) in enumerate(files):
      path = template.sharded_filepath(shard_index=index, num_shards=len(files))
      yield number, file, Path(os.fspath(path))


def _template(place: Path, split: str) -> tfds.core.ShardedFileTemplate:
  return tfds.core.ShardedFileTemplate(
    data_dir=os.fspath(place), dataset_name=NAME, split=split, filetype_suffix=_SUFFIX
  )


def _describe(
  place: Path, splits: Mapping[str, Sequence[File]], metadata: Mapping[str, Any]
) -> None:
  """Make the files in a folder a TFDS dataset."""
  infos = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[file.records for file in files],
      num_bytes=sum(file.bytes for file in files),
      filename_template=_template(place, split),
    )
    for split, files in splits.items()
  ]
  features = tfds.features.FeaturesDict(dict(FEATURES))
  describe(place, NAME, VERSION, features, infos, metadata)


def write_shards(
  root: Path, options: Mapping[str, Any], parts: Iterable[Part], tally: Tally
) -> None:
  """Write what is known of all parts into the dataset; of pictures, those that `tally` keeps.

  Raises:
    OSError: it cannot be written.
  """
  shown = {id(strip) for strip in tally.strips}
  entries = []
  for part in parts:
    strips = [strip for strip in part.tally.strips if id(strip) in shown]
    kept = dataclasses.replace(part, tally=dataclasses.replace(part.tally, strips=strips))
    entries.append(kept.to_json())
  atomic.write_text(root / SHARDS, json.dumps({'options': dict(options), 'shards': entries}))


def read_shards(root: Path) -> tuple[dict[str, Any], list[Part]] | None:
  """Return the options and the parts of a finished dataset; None where `root` is none."""
  try:
    content = json.loads((root / SHARDS).read_text())
    return content['options'], [Part.from_json(entry) for entry in content['shards']]
  except _DAMAGED:
    return None
