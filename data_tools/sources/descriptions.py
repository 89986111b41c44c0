"""Descriptions of videos (captions and object prompts), and the window that clips are cut to.

A JSON file describes the videos, by their path under the root folder:

    {"park/dog": {"c": "A dog runs after a red ball.",
                  "c_motion": "The dog runs after the ball.",
                  "c_local": {"1": "a dog that runs", "2": "a red ball that rolls"},
                  "names": {"1": "dog", "2": "ball"}}}

`names` is optional: the default name of an object is the first words of its prompt. Keys that begin
with an underscore are comments. `./dog` and `dog/` are the same key as `dog`.
"""

import dataclasses
import functools
import posixpath
from typing import Any

from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.data.texts import PathLike, is_unicode, parse_json, read_text
from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.texts import name_from


@dataclasses.dataclass(frozen=True)
class Description:
  """The texts of a video.

  Attributes:
    caption: caption c.
    motion: motion prompt c_motion.
    names, prompts: short noun phrase and object prompt c_local, by object id.
  """

  caption: str
  motion: str
  names: dict[int, str]
  prompts: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Window:
  """Length, stride, frame rate and size of clips.

  Attributes:
    frames: number of frames T.
    stride: frames, at `fps`, from the start of one clip of a video to the start of the next.
    fps: frames per second; faster videos are subsampled to the frames nearest in time.
    size: (H, W) in pixels. Frames are resized to cover it, and center-cropped.

  Raises:
    InputError: if a value is not positive.
  """

  frames: int
  stride: int
  fps: float
  size: tuple[int, int]

  def __post_init__(self):
    if min(self.frames, self.stride, *self.size) < 1 or not self.fps > 0:
      raise InputError(f'frames, stride, fps, and size of clips must be positive, got {self}')


def read_captions(path: PathLike) -> dict[str, Description]:
  """Read the JSON file with the descriptions of the videos, by key.

  Raises:
    InputError: if the file cannot be read, or an entry is incomplete or invalid.
  """
  entries = parse_json(read_text(path), str(path), functools.partial(_unique, path))
  if not isinstance(entries, dict):
    raise InputError(f'{path}: must contain a JSON object with one entry per video')
  described = {
    key: description(f'{path}: "{key}"', entry)
    for key, entry in _normal(path, entries).items()
    if not key.startswith('_')
  }
  if not described:
    raise InputError(f'{path}: describes no video; add one')
  return described


def _unique(path: PathLike, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Return a JSON object; raise InputError for duplicate keys, which the parser would drop."""
  entries = dict(pairs)
  if len(entries) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise InputError(f'{path}: has two entries "{twice}"; remove one')
  return entries


def _normal(path: PathLike, entries: dict[str, Any]) -> dict[str, Any]:
  """Return the entries with normalized keys, without a leading ./ or a trailing slash."""
  written = {key: key if key.startswith('_') else posixpath.normpath(key) for key in entries}
  seen: dict[str, str] = {}
  for key, normal in written.items():
    if normal in seen:
      raise InputError(f'{path}: "{seen[normal]}" and "{key}" name the same video; remove one')
    seen[normal] = key
  return {normal: entries[key] for normal, key in seen.items()}


def description(where: str, entry: Any, complete: bool = True) -> Description:
  """Return the description of a video from its JSON object.

  Args:
    where: what the object belongs to, for error messages.
    entry: the JSON object; fields of other names are ignored.
    complete: whether the motion prompt and the object prompts must be given; the caption must.

  Raises:
    InputError: if a field is missing or invalid.
  """

  def text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
      raise InputError(f'{where}: "{field}" must be a string with words; write one')
    if not is_unicode(value):
      raise InputError(
        f'{where}: "{field}" contains a lone surrogate, which is not valid Unicode; correct it'
      )
    return value.strip()

  def by_id(field: str) -> dict[int, str]:
    texts = entry.get(field, {})
    if not isinstance(texts, dict):
      raise InputError(f'{where}: "{field}" must be a JSON object with one text per object id')
    for key in texts:
      # int() raises its own error for a string of thousands of digits.
      if not key.isdecimal() or len(key) > 9 or not 1 <= int(key) <= MAX_OBJECTS:
        raise InputError(f'{where}: "{field}" has the object id "{key}"; use 1 to {MAX_OBJECTS}')
    if len({int(key) for key in texts}) < len(texts):
      raise InputError(f'{where}: "{field}" has two texts for one object id; remove one')
    return {int(key): text(value, f'{field}.{key}') for key, value in texts.items()}

  if not isinstance(entry, dict):
    raise InputError(f'{where}: must be an object with "c", "c_motion" and "c_local"')
  prompts, names = by_id('c_local'), by_id('names')
  if not prompts and complete:
    raise InputError(f'{where}: "c_local" describes no object; add a prompt for each mask id')
  return Description(
    caption=text(entry.get('c'), 'c'),
    motion=text(entry.get('c_motion'), 'c_motion') if complete or 'c_motion' in entry else '',
    names={i: names.get(i) or name_from(prompt) for i, prompt in prompts.items()},
    prompts=prompts,
  )
