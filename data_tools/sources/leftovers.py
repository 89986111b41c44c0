"""Find the files of a source that no video uses, with the reason for each."""

import collections
import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.sources.base import VIDEOS, Video, unusable

_PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.ppm', '.pgm')
_TEXTS = ('.txt', '.csv', '.tsv', '.json', '.jsonl')


@dataclasses.dataclass(frozen=True)
class Leftover:
  """An unused file, or the files of an unused folder that share a reason.

  Attributes:
    name: path in the source; a folder ends in a slash.
    reason: why the files are not used.
    files: number of files.
  """

  name: str
  reason: str
  files: int


def leftovers(
  root: Path,
  videos: Sequence[Video],
  *,
  table: Path | None = None,
  known: Mapping[str, str] = {},
  excluded: Collection[str] = (),
  outside: Iterable[Path] = (),
) -> list[Leftover]:
  """Return the files of a source that belong to none of its videos, by name.

  Args:
    root: folder of the source.
    videos: all videos of the source.
    table: captions file that was read, or None.
    known: reasons that the source reported, by path in `root`; they take precedence.
    excluded: ids of videos that were excluded on purpose.
    outside: folders in `root` that are not part of the source, such as the output.
  """
  good = [video for video in videos if not video.problem]
  used = {os.path.realpath(path) for video in good for path in video.paths}
  used |= {os.path.realpath(table)} if table else set()
  apart = {os.path.realpath(folder) for folder in outside}
  # Files of a video that cannot be used are covered by the report of that video.
  apart |= {os.path.realpath(v.path) for v in videos if v.problem and not unusable(v.path)}
  apart -= {os.path.realpath(root)}
  touched = _parents(used | apart)
  beside = {os.path.dirname(os.path.realpath(video.path)) for video in good}
  keys = {video.key.rpartition('/')[2] for video in good if video.masks}
  left_out = frozenset(excluded)
  counts: collections.Counter[tuple[str, str]] = collections.Counter()

  def reason(path: str) -> str:
    name = os.path.relpath(path, root)
    parts, ending = Path(name).parts, Path(name).suffix.lower()
    stem = Path(name).name.split('.')[0]
    if why := known.get(Path(name).as_posix()):
      return why
    if any(part[0] == '.' or part == '__MACOSX' for part in parts):
      return 'hidden'
    # The file of an excluded id is named ID or ID_something.
    if not left_out.isdisjoint([stem, *(stem[: at.start()] for at in re.finditer('_', stem))]):
      return 'of a video that --exclude or --ids leaves out'
    if ending in _PICTURES and os.path.dirname(os.path.realpath(path)) in beside:
      return 'an image beside a video'
    if ending in _PICTURES and not keys.isdisjoint(parts[:-1]):
      return 'other images of a video that is read'
    if ending in (*VIDEOS, *_PICTURES):
      return f'not in {table.name}' if table else 'a video or image that does not fit the layout'
    if ending in _TEXTS:
      return f'captions come from {table.name}' if table else 'not the captions of a video'
    return 'not the extension of a video, image or table'

  for folder, names, files in os.walk(root):
    names[:] = sorted(n for n in names if os.path.realpath(os.path.join(folder, n)) not in apart)
    links = [n for n in names if os.path.islink(os.path.join(folder, n))]
    real = os.path.realpath(folder)
    for name in sorted([*files, *links]):
      path = os.path.join(folder, name)
      place = os.path.realpath(path)
      if place in used | apart or (name in links and place in touched):
        continue
      if real in used and Path(name).suffix.lower() in _PICTURES and name[0] != '.':
        continue  # A frame or a label map.
      why = 'a link to a folder' if name in links else reason(path)
      counts[_shown(root, path, touched), why] += 1
  return [Leftover(name, why, files) for (name, why), files in counts.items()]


def as_json(found: Sequence[Leftover]) -> dict[str, Any]:
  """Return counts by reason and all names, for `report.json`."""
  return {
    'files': sum(one.files for one in found),
    'reasons': dict(_by_reason(found).most_common()),
    'names': [dataclasses.asdict(one) for one in found],
  }


def lines(found: Sequence[Leftover], names: int = 5) -> list[str]:
  """Return one line per reason for the console, with the count and the first `names` names."""
  shown = []
  for reason, count in _by_reason(found).most_common():
    some = [one.name for one in found if one.reason == reason]
    more = ', ...' if len(some) > names else ''
    shown.append(f'not read {count}: {reason} ({", ".join(some[:names])}{more})')
  return shown


def _by_reason(found: Sequence[Leftover]) -> collections.Counter[str]:
  counts: collections.Counter[str] = collections.Counter()
  for one in found:
    counts[one.reason] += one.files
  return counts


def _parents(paths: Iterable[str]) -> set[str]:
  """Return the paths and all of their parent folders."""
  return {str(one) for path in paths for one in (Path(path), *Path(path).parents)}


def _shown(root: Path, path: str, touched: set[str]) -> str:
  """Return the path relative to `root`, or its topmost folder that has no used file."""
  parts = Path(os.path.relpath(path, root)).parts
  for end in range(1, len(parts)):
    folder = root.joinpath(*parts[:end])
    if os.path.realpath(folder) not in touched:
      return '/'.join(parts[:end]) + '/'
  return '/'.join(parts)
