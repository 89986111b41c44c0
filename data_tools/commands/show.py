"""What `python -m data_tools.show` does."""

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from ttm_jax import trajectory
from ttm_jax.codecs.base import to_uint8
from ttm_jax.data import clips, latents, records
from ttm_jax.data.chunks import check_growth
from ttm_jax.data.context import Context
from ttm_jax.data.description import DatasetShard
from ttm_jax.data.packed_ids import decode_ids
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError, printable
from ttm_jax.media import video_io
from ttm_jax.outputs import writing
from ttm_jax.parallel.compilation_cache import keep_programs


@dataclasses.dataclass(frozen=True)
class FoundRecord:
  """The records of a split or of a file.

  Attributes:
    name: `clips` or `latents`.
    folder: folder of the dataset or of the part.
    split: name of the split; '' for a file of a part.
    count: number of records.
    read: returns the record at an index in [0, count).
  """

  name: str
  folder: Path
  split: str
  count: int
  read: Callable[[int], records.Example]


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.show`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  keep_programs()
  found = find(Path(args.shard), args.split)
  if not 0 <= args.index < found.count:
    raise InputError(f'{args.shard}: has the records 0 to {found.count - 1}, not {args.index}')
  out = Path(args.out) if args.out else None
  if out is not None and is_part_of(out, found.folder):
    raise InputError(f'--out {out}: is inside the dataset; name a file elsewhere')
  record = found.read(args.index)
  try:
    about = of_clip if found.name == clips.NAME else of_latents
    lines, video, fps = about(record, found.folder)
  except (InputError, LookupError, ValueError) as error:
    raise InputError(
      f'{args.shard}: record {args.index} is damaged ({error}); write the dataset again'
    ) from error
  out = out or free_name(lines[0].split(maxsplit=1)[-1])
  with writing(out, 'name another --out'):
    video_io.write_video(out, video, fps)
  where = f', split {found.split}' if found.split else ''
  print(printable(f'{args.shard}{where}: {found.name} record {args.index} of {found.count}'))
  # Texts of a record may contain line breaks; keep one line per text.
  print('\n'.join(printable(line).replace('\n', '\\n') for line in [*lines, str(out)]))


def is_part_of(file: Path, folder: Path) -> bool:
  """Return whether a path, existing or not, is inside a folder."""
  return folder.resolve() in file.resolve().parents


def free_name(key: str) -> Path:
  """Return an unused .mp4 path in the current folder, named after the key of a record.

  Datasets may come from other people. Replace path separators and control characters in the key,
  and truncate it to 200 bytes.
  """
  kept = ''.join(c if c.isprintable() and c not in '/#' else '_' for c in key)
  stem = kept.encode()[:200].decode(errors='ignore').lstrip('.-') or 'record'
  names = itertools.chain([f'{stem}.mp4'], (f'{stem}-{n}.mp4' for n in itertools.count(1)))
  return next(path for path in map(Path, names) if not path.exists() and not path.is_symlink())


def find(place: Path, split: str | None = None) -> FoundRecord:
  """Return the records of a split, of a file of a dataset, or of a file of a part.

  Args:
    place: folder of a dataset, or an ArrayRecord file.
    split: split of the dataset; None for its first.

  Raises:
    InputError: if `place` does not exist, is neither of these, or cannot be read.
  """
  if place.is_dir():
    source = records.Records(place, split or records.splits(place)[0])
    return _of_dataset(place, source, range(len(source)))
  if not place.is_file():
    raise InputError(f'{place}: there is no such dataset or file; check the path')
  if (place.parent / 'dataset_info.json').is_file():
    for name in records.splits(place.parent):
      source = records.Records(place.parent, name)
      if inside := source.indices_in(place.name):
        return _of_dataset(place.parent, source, inside)
  if place.suffix != '.array_record':
    raise InputError(f'{place}: not a file of a dataset; give the folder, or an array_record file')
  try:
    check_growth(str(place))
    reader = ArrayRecordReader(str(place))
    count = reader.num_records()
    reader.close()
    raw = ArrayRecordDataSource([DatasetShard(str(place), 0, count, count)])
  except Exception as error:  # ArrayRecord's C++ code raises various types for corrupt files.
    raise InputError(
      f'{place}: cannot be read; it may be incomplete, try again when it is written'
    ) from error

  def read(index: int) -> records.Example:
    try:
      return clips.parse(raw[index])
    except Exception as error:
      raise InputError(
        f'{place}: record {index} cannot be read; it may be damaged, write the dataset again'
      ) from error

  return FoundRecord(clips.NAME, place.parent, '', count, read)


def _of_dataset(folder: Path, source: records.Records, inside: range) -> FoundRecord:
  if source.name == clips.NAME:
    read = clips.Clips(folder, source.split).record
  elif source.name == latents.NAME:
    read = latents.Latents(folder, source.split).record
  else:
    raise InputError(f'{folder}: contains "{source.name}"; give a dataset of clips or latents')
  return FoundRecord(source.name, folder, source.split, len(inside), lambda i: read(inside[i]))


def of_clip(record: Mapping[str, Any], folder: Path) -> tuple[list[str], np.ndarray, float]:
  """Return a text description of a clip, its video with the objects overlaid, and its fps."""
  clip = clips.decode_clip(dict(record))
  return describe_clip(clip), trajectory.overlay(clip.video, clip.ids), clip.fps


def describe_clip(clip: Clip) -> list[str]:
  """Return the key, sizes, texts and objects of a clip as lines of text."""
  t, h, w = clip.ids.shape
  return [
    f'key      {clip.key}',
    f'frames   {t} of {w} x {h} at {clip.fps:g} fps',
    f'caption  {clip.caption}',
    f'motion   {clip.motion}',
    *(
      f'object {i}  {name}: {said} ({_seen(clip.ids, i)})'
      for i, (name, said) in enumerate(zip(clip.names, clip.prompts, strict=True), 1)
    ),
  ]


def of_latents(record: Mapping[str, Any], folder: Path) -> tuple[list[str], np.ndarray, float]:
  """Return a text description of a latents record, its decoded videos, and their fps.

  Returns:
    Lines of text; uint8 [T, H, 2 W, 3], the video with objects overlaid next to the trajectory; and
    frames per second.

  Raises:
    InputError: if the shape of the latents does not match the dataset.
  """
  context = Context.load(folder)
  e = context.encoding
  for name in ('video', 'trajectory'):
    if record[name].shape != context.latent_shape:
      raise InputError(
        f'{name} has the shape {record[name].shape}, not {context.latent_shape} as in context'
      )
  ids = decode_ids(record['ids'], (e.frames, e.height, e.width))
  decoded = {
    name: to_uint8(
      np.asarray(context.codec.decode(record[name][None].astype(np.float32), e.frames))
    )
    for name in ('video', 'trajectory')
  }
  order = [int(old) for old in record['permutation'] if old]
  lines = [
    f'key      {record["key"].decode()}',
    f'frames   {e.frames} of {e.width} x {e.height} at {e.fps:g} fps, preset {e.preset}',
    f'masks    {"damaged on purpose" if record["corrupted"] else "as in the clip"}',
    *(f'object {i}  was {old} in the clip ({_seen(ids, i)})' for i, old in enumerate(order, 1)),
  ]
  for name, value in sorted(record.items()):
    if name not in ('key', 'ids', 'permutation', 'corrupted'):
      lines.append(f'{name:24} {_summary(np.asarray(value))}')
  video = trajectory.overlay(decoded['video'][0], ids, e.palette)
  return lines, np.concatenate([video, decoded['trajectory'][0]], axis=2), e.fps


def _seen(ids: np.ndarray, obj: int) -> str:
  there = ids == obj
  return f'{there[0].mean():.1%} of frame 0, in {int(there.any((1, 2)).sum())} of {len(ids)} frames'


def _summary(array: np.ndarray) -> str:
  if not array.shape:
    return str(array)
  values = array.astype(np.float64)
  spread = f'mean {values.mean():.3g}, std {values.std():.3g}' if array.dtype.kind == 'f' else ''
  shown = f'{array.dtype} {list(array.shape)}, {values.min():.3g} to {values.max():.3g}'
  return f'{shown}, {spread}' if spread else shown
