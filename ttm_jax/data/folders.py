"""Filmed videos with masks on disk, cut into clips.

A source is a folder with `video.mp4` (or one mp4 of any name) and a folder of palette PNGs, one a
frame, whose values are object ids. One JSON file describes all sources, by their path under the
root:

    {"park/dog": {"c": "A dog runs after a red ball.",
                  "c_motion": "The dog runs after the ball.",
                  "c_local": {"1": "a dog that runs", "2": "a red ball that rolls"},
                  "names": {"1": "dog", "2": "ball"}}}

`names` may be left out: an object is then called by the first words of its prompt. Keys that begin
with an underscore are remarks.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ttm_jax.data import video_io
from ttm_jax.data.schema import MAX_OBJECTS, Clip
from ttm_jax.errors import InputError
from ttm_jax.trajectory import read_folder

PathLike = str | os.PathLike[str]

_SLOWEST = 0.99  # A source of 23.976 fps passes for 24.
_LITTLE_WORDS = {'a', 'an', 'and', 'at', 'in', 'of', 'on', 'that', 'the', 'to', 'with'}


@dataclasses.dataclass(frozen=True)
class Description:
  """What is said of a source.

  Attributes:
    caption: c.
    motion: c_motion.
    names, prompts: short noun phrase and c_local, by object id.
  """

  caption: str
  motion: str
  names: dict[int, str]
  prompts: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Window:
  """What every clip is to be.

  Attributes:
    frames: T.
    stride: frames, at `fps`, from the start of one clip of a source to the start of the next.
    fps: frames per second; of faster sources, the frames nearest in time are taken.
    size: (H, W) in pixels. Frames are scaled until they just cover it, and cropped centrally.
  """

  frames: int
  stride: int
  fps: float
  size: tuple[int, int]

  def __post_init__(self):
    if min(self.frames, self.stride, *self.size) < 1 or not self.fps > 0:
      raise InputError(f'frames, stride, fps, and size of clips must be positive, got {self}')


@dataclasses.dataclass
class Report:
  """What an import did, and what it left out and why; filled while the clips are drawn.

  Attributes:
    clips: how many clips came out.
    sources: how each source was read, or why it could not be, in order.
    rejected: how many windows were left out, by reason.
    backgrounded: how many objects were made background in their window, by reason.
  """

  clips: int = 0
  sources: dict[str, str] = dataclasses.field(default_factory=dict)
  rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  backgrounded: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

  def __str__(self) -> str:
    lines = [f'{self.clips} clips from {len(self.sources)} sources']
    lines += [f'  {key}: {how}' for key, how in self.sources.items()]
    lines += [f'  left out {n}: {why}' for why, n in self.rejected.items()]
    lines += [f'  objects made background {n}: {why}' for why, n in self.backgrounded.items()]
    return '\n'.join(lines)


def read_captions(path: PathLike) -> dict[str, Description]:
  """Reads the JSON file that describes the sources, by their keys.

  Raises:
    InputError: the file cannot be read, or an entry lacks something.
  """
  try:
    entries = json.loads(Path(path).read_text(encoding='utf-8'))
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from error
  except ValueError as error:
    raise InputError(f'{path}: not valid JSON ({error}); mend it') from error
  if not isinstance(entries, dict):
    raise InputError(f'{path}: must hold an object with one entry a source')
  described = {
    key: _description(f'{path}: "{key}"', entry)
    for key, entry in entries.items()
    if not key.startswith('_')
  }
  if not described:
    raise InputError(f'{path}: describes no source; add one')
  return described


def _description(where: str, entry: Any) -> Description:
  def text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
      raise InputError(f'{where}: "{field}" must be a text; write one')
    return value.strip()

  def by_id(field: str) -> dict[int, str]:
    texts = entry.get(field, {})
    if not isinstance(texts, dict):
      raise InputError(f'{where}: "{field}" must hold one text an object id')
    for key in texts:
      if not key.isdecimal() or not 1 <= int(key) <= MAX_OBJECTS:
        raise InputError(f'{where}: "{field}" has the object id "{key}"; use 1 to {MAX_OBJECTS}')
    return {int(key): text(value, f'{field}.{key}') for key, value in texts.items()}

  if not isinstance(entry, dict):
    raise InputError(f'{where}: must be an object with "c", "c_motion" and "c_local"')
  prompts, names = by_id('c_local'), by_id('names')
  if not prompts:
    raise InputError(f'{where}: "c_local" describes no object; add a prompt for each mask id')
  return Description(
    caption=text(entry.get('c'), 'c'),
    motion=text(entry.get('c_motion'), 'c_motion'),
    names={i: names.get(i) or name_from(prompt) for i, prompt in prompts.items()},
    prompts=prompts,
  )


def name_from(prompt: str) -> str:
  """A name for an object of which only the prompt is known: 'a man in jeans runs', 'man in jeans'.

  It is the first three words after the article, less any little words they end with. It may well
  take in a verb; where that matters, as for detection, give `names`.
  """
  words = prompt.rstrip('.').split()
  words = words[1:] if words[0].lower() in ('a', 'an', 'the') and len(words) > 1 else words
  name = words[:3]
  while len(name) > 1 and name[-1].lower() in _LITTLE_WORDS:
    name.pop()
  return ' '.join(name)


def import_clips(
  root: PathLike, captions: Mapping[str, Description], window: Window, report: Report
) -> Iterator[Clip]:
  """Cuts the described sources into clips, one source in memory at a time.

  Objects are those visible in the first frame of a clip, in the order of their ids, numbered from
  1; all others are background. All clips of a source share its caption and motion prompt.

  Args:
    root: the folder under which the sources lie.
    captions: the sources to read, from `read_captions`.
    window: what each clip is to be.
    report: receives counts and reasons. A source that cannot be used is reported, not raised.

  Raises:
    InputError: `root` is no folder.
  """
  root = Path(root)
  if not root.is_dir():
    raise InputError(f'{root}: there is no such folder; check the path')
  for key, described in captions.items():
    try:
      video, ids, first, how = _read(root / key, window)
    except InputError as error:
      report.sources[key] = f'not used: {error}'
      continue
    starts = range(0, len(video) - window.frames + 1, window.stride)
    report.sources[key] = f'{how}, {len(starts)} windows'
    if not starts:
      report.rejected[f'source shorter than {window.frames} frames at {window.fps:g} fps'] += 1
    for start in starts:
      part = slice(start, start + window.frames)
      yield from _clip(
        f'{key}/{first[start]:05d}', video[part], ids[part], described, window.fps, report
      )


def _clip(
  key: str,
  video: np.ndarray,
  ids: np.ndarray,
  described: Description,
  fps: float,
  report: Report,
) -> Iterator[Clip]:
  """The clip, unless it has no object."""
  visible = [int(i) for i in np.unique(ids[0]) if i]
  kept = [i for i in visible if i in described.prompts]
  late = set(np.unique(ids)) - {0, *visible}
  for reason, number in {
    'no prompt for their id': len(visible) - len(kept),
    "not visible in their clip's first frame": len(late),
  }.items():
    if number:
      report.backgrounded[reason] += number
  if not kept:
    report.rejected['no described object is visible in the first frame'] += 1
    return
  renumbered = np.zeros(256, np.uint8)
  renumbered[kept] = np.arange(1, len(kept) + 1)
  report.clips += 1
  yield Clip(
    key=key,
    video=video,
    ids=renumbered[ids],
    fps=fps,
    caption=described.caption,
    motion=described.motion,
    names=tuple(described.names[i] for i in kept),
    prompts=tuple(described.prompts[i] for i in kept),
  )


def _read(folder: Path, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
  """The frames of a source at the wanted rate and size.

  Returns:
    uint8 [N, H, W, 3]; label maps uint8 [N, H, W]; the number of each frame in the source, int [N];
    and in words what was done.
  """
  path = _video_of(folder)
  masks = read_folder(_masks_of(folder))
  fps, frames = video_io.stream_video(path)
  if fps < _SLOWEST * window.fps:
    raise InputError(f'{path}: has {fps:g} fps; ask for at most that, not {window.fps:g}')
  total, height, width = masks.shape
  taken = np.floor(np.arange(total) * fps / window.fps + 0.5).astype(int)
  taken = taken[taken < total]
  # The part of the source, in its pixels, that fills the clip.
  scale = max(window.size[0] / height, window.size[1] / width)
  half = np.array([window.size[1], window.size[0]]) / scale / 2
  middle = np.array([width, height]) / 2
  box = (*np.maximum(middle - half, 0), *np.minimum(middle + half, middle * 2))

  def resized(frame: np.ndarray, method: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize(window.size[::-1], method, box))

  kept, number = {}, -1
  wanted = set(taken.tolist())
  for number, frame in enumerate(frames):
    if frame.shape[:2] != (height, width):
      raise InputError(
        f'{path}: is {frame.shape[1]}x{frame.shape[0]}, but its masks are {width}x{height};'
        ' resize the masks, by nearest neighbour'
      )
    if number in wanted:
      kept[number] = resized(frame, Image.Resampling.BICUBIC)
  if number + 1 != total:
    raise InputError(
      f'{path}: has {number + 1} frames, but there are {total} masks; make one mask a frame'
    )
  video = np.stack([kept[i] for i in taken])
  ids = np.stack([resized(masks[i], Image.Resampling.NEAREST) for i in taken])
  how = (
    f'{total} frames at {fps:g} fps -> {len(taken)} at {window.fps:g}, {width}x{height} cropped to'
    f' {box[2] - box[0]:.0f}x{box[3] - box[1]:.0f} -> {window.size[1]}x{window.size[0]}'
  )
  return video, ids, taken, how


def _video_of(folder: Path) -> Path:
  if not folder.is_dir():
    raise InputError(f'{folder}: there is no such folder; correct its key or its place')
  if (folder / 'video.mp4').is_file():
    return folder / 'video.mp4'
  videos = list(folder.glob('*.mp4'))
  if len(videos) != 1:
    raise InputError(f'{folder}: holds {len(videos)} mp4 files; name the right one video.mp4')
  return videos[0]


def _masks_of(folder: Path) -> Path:
  candidates = [d for d in folder.iterdir() if d.is_dir() and any(d.glob('*.png'))]
  if folder / 'masks' in candidates:
    return folder / 'masks'
  if len(candidates) != 1:
    raise InputError(
      f'{folder}: {len(candidates)} of its folders hold PNG files; name the right one masks'
    )
  return candidates[0]
