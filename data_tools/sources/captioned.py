"""A folder of videos with captions in a table, in one text file per video, or in a list.

A table is CSV or TSV with a header, or JSONL (one JSON object per line). Its path is given, or it
is captions or metadata.{csv,tsv,jsonl} in the folder. Its columns:

    video            path of the video in the folder; alternative names: file_name, file_path, path
                     or file
    caption          caption of the video; alternative names: text or prompt
    motion           optional: motion prompt c_motion, which the step `prompts` then keeps

With a table, the source has the videos that the table lists. Without one, it has all videos in the
folder, and the caption of each video is read from the first of these that has one:

    clip.txt next to clip.mp4; for a folder `videos` also labels/clip.txt and captions/clip.txt
    captions.json or metadata.json: a list of objects with the columns above, or an object that maps
        the path of each video to its caption or its columns
    videos.txt with one path per line, and prompts.txt, prompt.txt or captions.txt with as many
        captions

A video without a caption is kept for the step `caption`.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.sources.base import NOTHING_SAID, VIDEOS, Video, check_folder, inside, unique
from data_tools.sources.descriptions import Description
from ttm_jax.data.texts import is_unicode, lines_of, parse_json, read_text
from ttm_jax.errors import InputError

_VIDEO = ('video', 'file_name', 'file_path', 'path', 'file')
_CAPTION = ('caption', 'text', 'prompt')
_TABLES = tuple(
  f'{name}.{ending}' for ending in ('csv', 'jsonl', 'tsv') for name in ('captions', 'metadata')
)
_JSON = ('captions.json', 'metadata.json')
_PATHS, _LISTS = 'videos.txt', ('prompts.txt', 'prompt.txt', 'captions.txt')
_BESIDE = ('labels', 'captions')
_DELIMITERS = {'.csv': ',', '.tsv': '\t'}
_ENDINGS = (*_DELIMITERS, '.jsonl', '.json')

Row = Mapping[str, Any]


def captioned(root: Path, table: Path | None = None) -> tuple[list[Video], dict[str, str]]:
  """Return the videos of a folder, in the order of the table or of their names.

  Args:
    root: folder of the videos.
    table: CSV, TSV, JSONL or JSON file; by default, see the module docstring.

  Returns:
    The videos, and the reasons why files are not used, by their path in `root`.

  Raises:
    InputError: if the folder does not exist or has no videos, the table cannot be read or names a
      path outside the folder, or two videos have the same name.
  """
  check_folder(root)
  table = table or table_of(root)
  if table:
    rows = _rows(table)
    if rows is None:
      raise InputError(f'{table}: lists no videos; write a list of objects with "video"')
    return unique(_by_table(root, table, rows), str(table)), {}
  files = _files(root)
  if not files:
    raise InputError(f'{root}: contains no videos ({_what_lies_in(root)}); check the path')
  unused: dict[str, str] = {}
  chosen = _one_of_each_name(root, files, unused)
  said, missing = _lists(root, chosen, unused)
  videos = [_with_caption(root, path, said) for path in chosen]
  return unique([*missing, *videos], str(root)), unused


def table_of(root: Path) -> Path | None:
  """Return the table of captions in a folder, or None."""
  return next((root / name for name in _TABLES if (root / name).is_file()), None)


# Sources with a table.


def _by_table(root: Path, table: Path, rows: list[Row]) -> list[Video]:
  videos: list[Video] = []
  keys: dict[str, str] = {}
  for number, row in enumerate(rows, 1):
    where = f'{table}: entry {number}'
    name = _column(row, _VIDEO)
    if not name:
      raise InputError(f'{where} has no video; add a column "video"')
    try:
      path = inside(root, name)
    except InputError as error:
      raise InputError(f'{where}: {error}') from error
    key = _key(path)
    if keys.setdefault(key, path) != path:  # Keep the extension to tell a.mp4 from a.mov.
      key = path
    videos.append(Video(key, str(root / path), _said(row, where)))
  return videos


def _key(path: str) -> str:
  return Path(path).with_suffix('').as_posix()


def _said(row: Row, where: str) -> Description:
  caption = ' '.join(_column(row, _CAPTION).split())
  motion = ' '.join(_column(row, ('motion',)).split())
  if not is_unicode(caption + motion):
    raise InputError(
      f'{where}: a caption contains a lone surrogate, which is not valid Unicode; correct it'
    )
  return Description(caption, motion, {}, {}) if caption or motion else NOTHING_SAID


def _column(row: Row, names: tuple[str, ...]) -> str:
  value = next((row[name] for name in names if row.get(name)), '')
  return value.strip() if isinstance(value, str) else ''


def _rows(table: Path) -> list[Row] | None:
  """Return the rows of a table, or None if a JSON file does not have the form of one."""
  ending = table.suffix.lower()
  if ending not in _ENDINGS:
    raise InputError(f'{table}: a table of captions must be {", ".join(_ENDINGS)}')
  text = read_text(table)
  if ending in _DELIMITERS:
    return list(_csv_rows(table, text, _DELIMITERS[ending]))
  if ending == '.json':
    return _json_rows(parse_json(text, str(table)))
  return list(_json_lines(table, text))


def _csv_rows(table: Path, text: str, delimiter: str) -> Iterator[Row]:
  # Let the csv module split records, since quoted fields may contain line breaks.
  rows = csv.DictReader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
  try:
    for row in rows:
      # DictReader collects fields beyond the header under the key None.
      yield {name.strip().lower(): value for name, value in row.items() if isinstance(name, str)}
  except csv.Error as error:
    raise InputError(
      f'{table}: line {rows.line_num} is not valid CSV ({error}); correct it'
    ) from error


def _json_lines(table: Path, text: str) -> Iterator[Row]:
  for number, line in enumerate(lines_of(text), 1):
    if not line.strip():
      continue
    row = parse_json(line, f'{table}: line {number}')
    if not isinstance(row, dict):
      raise InputError(f'{table}: line {number} is not a JSON object; write one per line')
    yield row


def _json_rows(content: Any) -> list[Row] | None:
  """Return rows from a list of objects or an object by path, or None for anything else."""
  if isinstance(content, dict):
    if not all(isinstance(said, str | dict) for said in content.values()):
      return None
    content = [
      {'video': path, **({'caption': said} if isinstance(said, str) else said)}
      for path, said in content.items()
    ]
  if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
    return None
  return content if all(_column(row, _VIDEO) for row in content) and content else None


# Sources without a table.


def _files(root: Path) -> list[Path]:
  return [
    path
    for path in sorted(root.rglob('*'))
    if path.suffix.lower() in VIDEOS and path.name[0] != '.' and not path.is_dir()
  ]


def _what_lies_in(root: Path) -> str:
  """Describe a folder by the five most frequent file extensions and their counts."""
  endings = [
    path.suffix.lower() or 'without extension' for path in root.rglob('*') if path.is_file()
  ]
  counts = sorted(((endings.count(e), e) for e in set(endings)), reverse=True)[:5]
  return 'but ' + ', '.join(f'{count} {ending}' for count, ending in counts) if counts else 'empty'


def _one_of_each_name(root: Path, files: list[Path], unused: dict[str, str]) -> list[Path]:
  """Keep one file per name: of clip.mp4 and clip.gif, the one that is first in `VIDEOS`."""
  chosen: dict[Path, Path] = {}
  for path in sorted(files, key=lambda path: VIDEOS.index(path.suffix.lower())):
    first = chosen.setdefault(path.with_suffix(''), path)
    if first != path:
      name = path.relative_to(root).as_posix()
      unused[name] = 'another video of the same name is used; rename one to use both'
  return [path for path in files if path in chosen.values()]


def _with_caption(root: Path, path: Path, said: Mapping[str, Description]) -> Video:
  name = path.relative_to(root).as_posix()
  if not is_unicode(name):
    return Video(_key(name), str(path))  # `unique` reports the invalid name.
  inside(root, name)
  places = [path.with_suffix('.txt')]
  if path.parent.name == 'videos':
    places += [path.parents[1] / beside / f'{path.stem}.txt' for beside in _BESIDE]
  text = next((place for place in places if place.is_file()), None)
  if text:
    described = _said({'text': read_text(text)}, str(text))
    return Video(_key(name), str(path), described, beside=(str(text),))
  return Video(_key(name), str(path), said.get(name, NOTHING_SAID))


def _lists(
  root: Path, chosen: list[Path], unused: dict[str, str]
) -> tuple[dict[str, Description], list[Video]]:
  """Return captions by path in `root`, from a JSON file or a pair of lists, and missing videos.

  A file that is not such a list is not an error, since its name is common; add it to `unused`.
  """
  there = {path.relative_to(root).as_posix() for path in chosen}
  found: dict[str, Description] = {}
  missing: dict[str, Video] = {}
  for name, rows in _candidates(root, there, unused):
    if found:
      unused[name] = 'captions are taken from another list'
      continue
    for number, row in enumerate(rows, 1):
      try:
        path = inside(root, _column(row, _VIDEO))
      except InputError as error:
        unused[name] = f'entry {number} is left out: {error}'
        continue
      found[path] = _said(row, f'{root / name}: entry {number}')
      if path not in there and path not in unused:
        missing[path] = Video(path, str(root / path), found[path])
  return found, list(missing.values())


def _candidates(
  root: Path, there: set[str], unused: dict[str, str]
) -> Iterator[tuple[str, list[Row]]]:
  stems = {_key(path) for path in there}
  for name in _JSON:
    if not (root / name).is_file():
      continue
    try:
      rows = _rows(root / name)
    except InputError as error:
      unused[name] = str(error).split(': ', 1)[-1]
      continue
    if rows is None or not any(_names_one_of(root, row, there) for row in rows):
      unused[name] = 'not a list of the videos in this folder with their captions'
    else:
      yield name, rows
  for name in _LISTS:
    if not (root / name).is_file() or Path(name).stem in stems:
      continue
    captions = list(lines_of(read_text(root / name)))
    if (root / _PATHS).is_file():
      paths = list(lines_of(read_text(root / _PATHS)))
      if len(paths) != len(captions):
        unused[name] = (
          f'{_PATHS} has a different number of lines; write one video and one caption per line'
        )
        continue
    elif len(captions) == len(there) == 1:
      paths = list(there)
    else:
      unused[name] = f'the video of each caption is not known; add {_PATHS}, with one path per line'
      continue
    rows = [
      {'video': path, 'caption': caption}
      for path, caption in zip(paths, captions, strict=True)
      if path.strip()
    ]
    yield name, rows


def _names_one_of(root: Path, row: Row, there: set[str]) -> bool:
  try:
    return inside(root, _column(row, _VIDEO)) in there
  except InputError:
    return False
