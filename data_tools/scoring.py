"""Score the videos of SA-V for `data_tools.sav128`, and keep the scores in a JSON lines file.

The first line of the file holds the settings, each further line the record of one video:

    {"id": "sav_000001", "category": "Animal", "aesthetic": 5.1, "motion": 2.3, "objects": 2,
     "names": ["dog", "ball"], "caption": "A dog runs after a ball.", "seconds": 13.9}
    {"id": "sav_000002", "problem": "sav_000002.mp4: ..."}

Lines are appended as videos are scored, so that an interrupted run resumes. The scores are those of
the whole video, at --fps and at --size.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tqdm

from data_tools.drafts import Draft, remaining
from data_tools.selection import CATEGORIES, Candidate
from data_tools.shard import Step, safely
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window
from data_tools.sources.windows import drafts
from data_tools.steps.category import Categorize
from ttm_jax import json_lines
from ttm_jax.data.encode import batched
from ttm_jax.errors import InputError, nearest
from ttm_jax.outputs import writing

# The benchmark generates frames 0 to 127 at 24 fps.
LEAST_SECONDS = 128 / 24
SETTINGS = 'settings'


@dataclasses.dataclass(frozen=True)
class Scoring:
  """How videos are scored.

  Attributes:
    fps: frames per second that the models see.
    size: (H, W) that the models see, in pixels; frames are scaled to cover it and center-cropped.
    steps: the steps flow, aesthetic, caption and prompts, by name.
    batch: number of videos scored at once.
  """

  fps: float
  size: tuple[int, int]
  steps: Mapping[str, Step]
  batch: int = 8


def score(
  videos: Sequence[Video],
  path: Path,
  scoring: Scoring,
  categorize: Categorize | Mapping[str, str],
  settings: Mapping[str, Any],
) -> None:
  """Append the records of all videos that the file does not have yet.

  Args:
    videos: the videos of a source.
    path: the file of scores; created if it does not exist.
    scoring: how to score.
    categorize: the step, or the category of each video by id.
    settings: JSON values that determine the scores.

  Raises:
    InputError: if the file was made with other settings or cannot be written, or a video has no
      category.
  """
  lines = _lines(path)
  before = next((line[SETTINGS] for line in lines if SETTINGS in line), None)
  if lines and before != settings:
    raise InputError(
      f'{path}: was made with other options ({json.dumps(before)}); name another --scores'
    )
  known = {line.get('id') for line in lines}
  left = [video for video in videos if video.key not in known]
  if isinstance(categorize, Mapping):
    lacking = [video.key for video in left if video.key not in categorize]
    if lacking:
      raise InputError(
        f'--categories: has no category of {lacking[0]} and {len(lacking) - 1} other videos; add'
        ' them, or leave --categories out'
      )
  bar = tqdm.tqdm(total=len(videos), initial=len(videos) - len(left), desc='score', unit=' videos')
  with bar, writing(path, 'free space, then run the same command again'):
    if not lines:
      _append(path, [{SETTINGS: dict(settings)}])
    for some in batched(left, scoring.batch):
      _append(path, list(_scored(some, scoring, categorize)))
      bar.update(len(some))


def candidates(path: Path) -> tuple[list[Candidate], dict[str, dict[str, Any]], dict[str, str]]:
  """Read a file of scores.

  Returns:
    The usable videos, their records by id, and the reasons why others cannot be used by id.

  Raises:
    InputError: if the file cannot be read, or a record is incomplete or invalid.
  """
  usable: list[Candidate] = []
  records: dict[str, dict[str, Any]] = {}
  problems: dict[str, str] = {}
  for record in _lines(path):
    if SETTINGS in record:
      continue
    name = record.get('id')
    if not isinstance(name, str) or not name.strip():
      raise InputError(f'{path}: a record has no "id"; add it')
    if problem := record.get('problem'):
      problems[name] = str(problem)
      continue
    where = f'{path}: "{name}"'
    category = record.get('category')
    if category not in CATEGORIES:
      hint = nearest(str(category), CATEGORIES)
      raise InputError(f'{where} has the category {category!r}{hint}; use {", ".join(CATEGORIES)}')
    for field in ('aesthetic', 'motion'):
      value = record.get(field)
      if not json_lines.is_number(value) or not math.isfinite(value):
        raise InputError(f'{where} has the {field} score {value!r}; give a finite number')
    objects = record.get('objects')
    if not isinstance(objects, int) or isinstance(objects, bool) or objects < 0:
      raise InputError(f'{where} has {objects!r} objects; give their number, 0 or more')
    usable.append(Candidate(name, category, record['aesthetic'], record['motion'], objects))
    records[name] = record
  return usable, records, problems


def _lines(path: Path) -> list[dict[str, Any]]:
  try:
    found, bad = json_lines.read(path)
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from error
  if bad and not found:
    raise InputError(f'{path}: holds no record; write one JSON object per line')
  return found


def _append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
  """Append records, each on a line of its own even if the last run was killed in a line."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = ''.join(json.dumps(record, ensure_ascii=False) + '\n' for record in records)
  with path.open('ab+') as file:
    if file.tell():
      file.seek(-1, os.SEEK_END)
      text = text if file.read(1) == b'\n' else f'\n{text}'
    file.write(text.encode())
    file.flush()
    os.fsync(file.fileno())


def _scored(
  videos: Sequence[Video], scoring: Scoring, categorize: Categorize | Mapping[str, str]
) -> Iterator[dict[str, Any]]:
  """Yield one record per video, in order."""
  problems: dict[str, str] = {}
  left: list[Draft] = []
  for video in videos:
    try:
      left.append(_whole(video, scoring))
    except Exception as error:  # Video decoders raise many exception types.
      problems[video.key] = str(error) or type(error).__name__
  for name, step in scoring.steps.items():
    outcomes = safely(step, left, name)
    for outcome in outcomes:
      if not isinstance(outcome, Draft):
        detail = f' ({outcome.detail})' if outcome.detail else ''
        problems[outcome.draft.key] = f'{outcome.reason}{detail}'
    left = remaining(outcomes)
  done = {draft.key: draft for draft in left if draft.caption}
  problems |= {draft.key: 'no caption' for draft in left if not draft.caption}
  if isinstance(categorize, Mapping):
    categories = {key: categorize[key] for key in done}
  else:
    captions = [draft.caption for draft in done.values()]
    categories = dict(zip(done, categorize(captions), strict=True))
  for video in videos:
    if video.key in problems:
      yield {'id': video.key, 'problem': problems[video.key]}
      continue
    draft = done[video.key]
    yield {
      'id': video.key,
      'category': categories[video.key],
      **{name: round(value, 6) for name, value in draft.scores.items()},
      'objects': len(draft.prompts),
      'names': list(draft.names.values()),
      'caption': draft.caption,
      'seconds': round(len(draft.video) / draft.fps, 3),
    }


def _whole(video: Video, scoring: Scoring) -> Draft:
  """Return a draft of the whole video, without its masks.

  Raises:
    InputError: if the video cannot be read, or is shorter than LEAST_SECONDS.
  """
  if video.problem:
    raise InputError(video.problem)
  seen = video.probe()
  seconds = float(seen.frames / seen.fps)
  if seconds < LEAST_SECONDS:
    raise InputError(f'{video.path}: lasts {seconds:.2f} s, less than {LEAST_SECONDS:.2f} s')
  frames = int(seconds * scoring.fps)
  window = Window(frames, frames, scoring.fps, scoring.size)
  draft = next(drafts(dataclasses.replace(video, masks=None), window))
  return dataclasses.replace(draft, key=video.key)
