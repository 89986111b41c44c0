"""Write the output of each shard as a part, then assemble the parts into a clips dataset.

Any process can write any part, in any order. A part is a folder such as `parts/00007` with one
ArrayRecord file per bucket and split, and `tally.json`. It is renamed into place once it is
complete. When all parts exist, their files move into the dataset without being rewritten. The file
`shards.json` of the dataset records the digest, files and statistics of each part. A later job
reuses the parts whose source files are unchanged.
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
# Exceptions raised while a corrupt `tally.json` or `shards.json` is read.
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_BUCKET = re.compile(r'\d+x\d+x\d+')


@dataclasses.dataclass(frozen=True)
class File:
  """One ArrayRecord file of a part.

  Attributes:
    bucket: name of the clip size, as `16x256x256` (frames, height, width).
    split: `train` or `validation`.
    records: number of clips.
    bytes: total size of the records.
  """

  bucket: str
  split: str
  records: int
  bytes: int

  @property
  def name(self) -> str:
    """File name within the part."""
    return f'{self.bucket}.{self.split}.{_SUFFIX}'


@dataclasses.dataclass(frozen=True)
class Part:
  """Metadata of a finished part.

  Attributes:
    digest: digest of the shard that the part was made from.
    files: the ArrayRecord files.
    tally: statistics of the videos and clips.
  """

  digest: str
  files: tuple[File, ...]
  tally: Tally

  def to_json(self) -> dict[str, Any]:
    """Return the content of `tally.json`."""
    files = [dataclasses.astuple(file) for file in self.files]
    return {'digest': self.digest, 'files': files, 'tally': self.tally.to_json()}

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Part':
    """Build a part from the result of `to_json`, which may come from a corrupt file.

    Raises:
      ValueError, LookupError, TypeError or AttributeError: if `content` is not valid.
    """
    files = tuple(File(*file) for file in content['files'])
    if not all(_BUCKET.fullmatch(file.bucket) and file.split in SPLITS for file in files):
      raise ValueError('a file outside the dataset')
    return cls(content['digest'], files, Tally.from_json(content['tally']))


class PartWriter:
  """Write the files of one part; see `new_part`."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._features = tfds.features.FeaturesDict(dict(FEATURES))
    self._writers: dict[tuple[str, str], ShardWriter] = {}

  def write(self, bucket: str, split: str, clip: Clip) -> None:
    """Add a clip to the file of its bucket and split.

    Raises:
      OSError: if the clip cannot be written.
    """
    place = (bucket, split)
    if place not in self._writers:
      path = self._folder / File(bucket, split, 0, 0).name
      self._writers[place] = ShardWriter(path, self._features)
    self._writers[place].write(encode_clip(clip))

  def close(self) -> tuple[File, ...]:
    """Close the files and return their descriptions.

    Raises:
      OSError: if a file cannot be written.
    """
    for writer in self._writers.values():
      writer.close()
    return tuple(File(*place, w.records, w.bytes) for place, w in self._writers.items())


@contextlib.contextmanager
def new_part(folder: Path, digest: str, tally: Tally) -> Iterator[PartWriter]:
  """Yield a writer of clips; on success, rename the part to `folder` with its tally.

  Args:
    folder: folder of the part, from `part_folder`.
    digest: digest of the shard.
    tally: statistics, which the caller fills while it writes clips.

  Raises:
    OSError: if the part cannot be written.
    InputError: if `folder` exists and is not a finished part.
  """
  try:
    with atomic.new_folder(folder) as partial:
      writer = PartWriter(partial)
      yield writer
      part = Part(digest, writer.close(), tally)
      (partial / TALLY).write_text(json.dumps(part.to_json()))
  except InputError:
    # A Beam runner may run one shard on two machines. Both write the same part, so keep the first.
    if not is_finished(folder):
      raise


def part_folder(root: Path, number: int) -> Path:
  """Return the folder of part `number` under `root`."""
  return root / 'parts' / f'{number:05d}'


def is_finished(folder: Path) -> bool:
  """Return whether `folder` is a complete part."""
  return (folder / TALLY).is_file()


def read_part(folder: Path) -> Part | None:
  """Return a finished part, or None if it is missing, corrupt or of another version."""
  try:
    return Part.from_json(json.loads((folder / TALLY).read_text()))
  except _DAMAGED:
    return None


def keep(root: Path, digests: Sequence[str], buckets: Sequence[str]) -> int:
  """Remove every part that does not match the current shards.

  Part i is kept if it is complete and its digest is `digests[i]`.

  Args:
    root: work folder of the job.
    digests: digests of the shards, in order.
    buckets: names of the buckets.

  Returns:
    The number of parts that are kept.
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
  """Undo the moves of an interrupted `assemble`, which starts only when all parts exist."""
  parts: list[Part] = []
  while part := read_part(part_folder(root, len(parts))):
    parts.append(part)
  for number, file, target in _targets(root, parts, buckets):
    source = part_folder(root, number) / file.name
    if target.exists() and not source.exists():
      target.rename(source)


def take_back(dataset: Path, root: Path, digests: Sequence[str], buckets: Sequence[str]) -> None:
  """Recreate parts from a finished dataset, for the shards whose source files are unchanged.

  Hard-link the files if the file system supports it, else copy them. The dataset is not changed.

  Args:
    dataset: folder of the finished dataset.
    root: work folder of the new job.
    digests: digests of the new job's shards, in order.
    buckets: names of the buckets.

  Raises:
    OSError: if a part cannot be written.
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
  """Assemble parts 0 to count - 1 into one TFDS dataset per bucket, and sum their tallies.

  The function can be called again after an interruption. With a single bucket, the dataset is
  written to `root`; with several, each is written to a subfolder named after the bucket.

  Args:
    root: work folder of the job.
    count: number of parts.
    buckets: names of the buckets.
    metadata: metadata to store in the datasets.

  Returns:
    The sum of the tallies, and the parts in order.

  Raises:
    InputError: if a part or one of its files is missing.
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
  """Yield each file of the parts with its part number and its path in the dataset at `root`."""
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
  """Write the TFDS metadata for the record files in a folder."""
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
  """Write `shards.json`: the options, and the metadata of all parts.

  Keep only the preview images that `tally` also keeps.

  Raises:
    OSError: if the file cannot be written.
  """
  shown = {id(strip) for strip in tally.strips}
  entries = []
  for part in parts:
    strips = [strip for strip in part.tally.strips if id(strip) in shown]
    kept = dataclasses.replace(part, tally=dataclasses.replace(part.tally, strips=strips))
    entries.append(kept.to_json())
  atomic.write_text(root / SHARDS, json.dumps({'options': dict(options), 'shards': entries}))


def read_shards(root: Path) -> tuple[dict[str, Any], list[Part]] | None:
  """Return the options and parts of a finished dataset, or None if `root` is not one."""
  try:
    content = json.loads((root / SHARDS).read_text())
    return content['options'], [Part.from_json(entry) for entry in content['shards']]
  except _DAMAGED:
    return None
