"""A folder of videos with captions: CSV, JSONL, or a .txt beside each video.

A table (CSV with a header, or one JSON object a line) lies in the folder or is named. Its columns:

    video            path of the file in the folder; also called file_name, path or file
    caption          what it shows; also called text or prompt
    motion           optional: c_motion, so that the step `prompts` is not needed

Without a table, `clip.mp4` is described by `clip.txt`; in a folder `videos` by `labels/clip.txt` or
`captions/clip.txt` beside it. A video without a caption is kept, for the step `caption`.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.sources.base import NOTHING_SAID, VIDEOS, Video, unique, within
from ttm_jax.data.folders import Description
from ttm_jax.errors import InputError

_VIDEO = ('video', 'file_name', 'path', 'file')
_CAPTION = ('caption', 'text', 'prompt')
_TABLES = ('captions.csv', 'metadata.csv', 'captions.jsonl', 'metadata.jsonl')
_BESIDE = ('labels', 'captions')
_ENDINGS = ('.csv', '.jsonl')


def captioned_videos(root: Path, table: Path | None = None) -> list[Video]:
  """The videos of a folder, in the order of the table or of their names.

  Args:
    table: CSV or JSONL; by default captions or metadata.{csv,jsonl} in the folder, else .txt files.

  Raises:
    InputError: there is no such folder or no video in it, the table cannot be read or names a path
      outside the folder, or two videos have one name.
  """
  if not root.is_dir():
    raise InputError(f'{root}: there is no such folder; check the path')
  if table is None:
    table = next((root / name for name in _TABLES if (root / name).is_file()), None)
  found = _by_table(root, table) if table else _by_files(root)
  return unique(list(found), str(table or root))


def _by_table(root: Path, table: Path) -> Iterator[Video]:
  for number, row in enumerate(_rows(table), 1):
    where = f'{table}: entry {number}'
    name = _column(row, _VIDEO)
    if not name:
      raise InputError(f'{where} names no video; add a column "video"')
    path = within(root, name)
    yield Video(_key(root, path), str(path), _said(row))


def _by_files(root: Path) -> Iterator[Video]:
  for path in sorted(root.rglob('*')):
    if path.suffix.lower() not in VIDEOS or path.name[0] == '.':
      continue
    places = [path.with_suffix('.txt')]
    if path.parent.name == 'videos':
      places += [path.parents[1] / beside / f'{path.stem}.txt' for beside in _BESIDE]
    text = next((_read(p) for p in places if p.is_file()), '')
    inside = within(root, str(path.relative_to(root)))
    yield Video(_key(root, path), str(inside), _said({'text': text}))


def _key(root: Path, path: Path) -> str:
  return path.relative_to(root).with_suffix('').as_posix()


def _said(row: Mapping[str, Any]) -> Description:
  caption = ' '.join(_column(row, _CAPTION).split())
  motion = ' '.join(_column(row, ('motion',)).split())
  return Description(caption, motion, {}, {}) if caption or motion else NOTHING_SAID


def _column(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
  value = next((row[name] for name in names if row.get(name)), '')
  return value.strip() if isinstance(value, str) else ''


def _rows(table: Path) -> Iterator[Mapping[str, Any]]:
  if table.suffix.lower() not in _ENDINGS:
    raise InputError(f'{table}: a table of captions must be {" or ".join(_ENDINGS)}')
  text = _read(table)
  if table.suffix.lower() == '.csv':
    rows = csv.DictReader(text.splitlines(), strict=True)
    try:
      yield from rows
    except csv.Error as error:
      raise InputError(f'{table}: line {rows.line_num} is not CSV ({error}); mend it') from error
    return
  for number, line in enumerate(text.splitlines(), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:
      raise InputError(f'{table}: line {number} is not JSON ({error}); mend it') from error
    if not isinstance(row, dict):
      raise InputError(f'{table}: line {number} is not a JSON object; write one a line')
    yield row


def _read(path: Path) -> str:
  try:
    return path.read_text(encoding='utf-8-sig')
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from error
  except UnicodeDecodeError as error:
    raise InputError(f'{path}: not a text in UTF-8; convert it') from error
