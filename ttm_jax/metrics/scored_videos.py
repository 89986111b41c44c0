"""Read the generated videos of any system from a folder, and fit them to their clips.

The video of a clip is KEY.mp4, or KEY__SEED.mp4 for each of several noise seeds. KEY is the key of
the clip, with every character but letters, digits, '.', '-' and '_' replaced by '_' (`stem_of`).
Besides mp4 there may be any format that `media.video_reader` reads (webm, gif), or a folder of
numbered images. What does not match the clips is an error, unless it is allowed:

* missing: clips without a readable video of every seed are left out.
* fps: each frame of a clip is compared with the video frame that is shown at its time.
* length: clips and videos are cut to the number of frames that all of them have.
* size: videos are resized to cover the size of their clip, with antialiasing, and cropped.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from ttm_jax.errors import InputError, nearest
from ttm_jax.inference.request import fit
from ttm_jax.media.images import is_clutter, list_pictures, read_image
from ttm_jax.media.video_reader import is_video, read_video
from ttm_jax.metrics.defaults import DEVIATIONS
from ttm_jax.metrics.references import Header

_REMEDIES = {
  'missing': 'generate them, or give --allow=missing to score the other clips',
  'fps': 'convert them, or give --allow=fps to take the frame shown at the time of each frame',
  'length': 'generate them anew, or give --allow=length to cut all to the common length',
  'size': 'generate them anew, or give --allow=size to resize and crop them',
}
_LISTED = 10  # Names in a note.
_SAME_RATE = 0.005  # Relative difference of rates that are called equal, such as 23.976 and 24.
_GIF_TICK = 0.01  # Seconds; a GIF stores the duration of a frame as a multiple of it.
_STEM_BYTES = 200

Place = tuple[str, int]  # Key of a clip, and seed.


@dataclasses.dataclass(frozen=True)
class Look:
  """What a generated video is like.

  Attributes:
    frames: its frames.
    size: height and width.
    fps: frames per second; None for a folder of images, which has the frame rate of its clip.
  """

  frames: int
  size: tuple[int, int]
  fps: float | None


@dataclasses.dataclass(frozen=True)
class Inspection:
  """The videos of a folder that can be scored.

  Attributes:
    folder: the folder.
    seeds: noise seeds, ascending.
    paths: the video of each clip and seed.
    lengths: for each clip, the frames that it and its videos have at the frame rate of the clip.
    notes: allowed deviations, one sentence each.
  """

  folder: Path
  seeds: tuple[int, ...]
  paths: dict[Place, Path]
  lengths: dict[str, int]
  notes: tuple[str, ...]


def parse_allow(text: str) -> frozenset[str]:
  """Parse the value of --allow, such as 'missing,size'.

  Raises:
    InputError: it names something that cannot be allowed.
  """
  names = [name for name in text.split(',') if name]
  for name in names:
    if name not in DEVIATIONS:
      raise InputError(
        f'--allow={text}: "{name}" cannot be allowed{nearest(name, DEVIATIONS)}; choose from'
        f' {", ".join(DEVIATIONS)}'
      )
  return frozenset(names)


def stem_of(key: str) -> str:
  """Return the file name, without suffix and seed, of the video of a clip."""
  name = ''.join(c if c.isalnum() or c in '.-_' else '_' for c in key)
  name = f'_{name[1:]}' if name.startswith('.') else name
  return name.encode()[:_STEM_BYTES].decode(errors='ignore')


def stems_of(keys: Iterable[str]) -> dict[str, str]:
  """Return the key of each file name, see `stem_of`.

  Raises:
    InputError: the videos of two clips would have one name.
  """
  found: dict[str, str] = {}
  for key in keys:
    other = found.setdefault(stem_of(key), key)
    if other != key:
      raise InputError(
        f'the clips {other!r} and {key!r} would have one video name, {stem_of(key)}: rename one in'
        ' the dataset'
      )
  return found


def inspect(
  folder: Path,
  headers: Sequence[Header],
  allow: Collection[str] = (),
  progress: Callable[[int], None] = lambda videos: None,
) -> Inspection:
  """Find the videos of clips in a folder, and check every one by decoding it.

  Args:
    folder: the folder.
    headers: the clips.
    allow: names of DEVIATIONS.
    progress: called with the number of videos checked since the last call.

  Raises:
    InputError: there is no video of any clip, or a deviation is not allowed.
  """
  paths, others = _find(folder, [header.key for header in headers])
  if not paths:
    wanted, there = f'{stem_of(headers[0].key)}.mp4', f', only {others[0]}' if others else ''
    raise InputError(
      f'{folder} has no video of any of the {len(headers)} clips: name them as {wanted} (there is'
      f' none{there})'
    )
  seeds = tuple(sorted({seed for _, seed in paths}))
  looks: dict[Place, Look] = {}
  unreadable: list[str] = []
  for place, path in paths.items():
    try:
      looks[place] = _look(path)
    except InputError as error:
      unreadable.append(str(error))
    progress(1)
  if unreadable and 'missing' not in allow:
    raise InputError(
      f'{len(unreadable)} of {len(paths)} videos cannot be read ({_some(unreadable)}): replace'
      ' them, or give --allow=missing to score the other clips'
    )
  whole = [h for h in headers if all((h.key, seed) in looks for seed in seeds)]
  lacking = sorted({h.key for h in headers} - {h.key for h in whole})
  deviating: dict[str, list[str]] = {'missing': lacking, 'fps': [], 'length': [], 'size': []}
  lengths = {header.key: header.shape[0] for header in whole}
  for header in whole:
    for seed in seeds:
      name, look = paths[header.key, seed].name, looks[header.key, seed]
      frames = len(_shown(look, header.fps, name))
      lengths[header.key] = min(lengths[header.key], frames)
      if not _same_rate(look.fps, header.fps, name):
        deviating['fps'].append(f'{name} has {look.fps:g} per second, not {header.fps:g}')
      if frames != header.shape[0]:
        deviating['length'].append(f'{name} has {look.frames}, not {header.shape[0]}')
      if not _same_size(look.size, header.shape[1:]):
        deviating['size'].append(f'{name} is {_by(look.size)}, not {_by(header.shape[1:])}')
  _refuse(folder, deviating, allow, len(headers))
  if not whole:
    raise InputError(f'{folder} has a readable video of every seed for no clip: generate them anew')
  kept = {place: path for place, path in paths.items() if place[0] in lengths}
  notes = [f'{folder}: cannot be read and not scored: {_some(unreadable)}'] if unreadable else []
  notes += _notes(folder, deviating, len(headers))
  return Inspection(folder, seeds, kept, lengths, tuple(notes))


def read_fitted(path: Path, header: Header, frames: int) -> np.ndarray:
  """Return a video at the frame rate and size of its clip.

  Args:
    path: a video that `inspect` has accepted.
    header: its clip.
    frames: the frames to return; the video has at least as many.

  Returns:
    uint8 [frames, H, W, 3].

  Raises:
    InputError: the video cannot be read.
  """
  video, fps = _read(path)
  look = Look(len(video), video.shape[1:3], fps)
  video = video[_shown(look, header.fps, path.name)[:frames]]
  height, width = header.shape[1:]
  if _same_size(look.size, (height, width)):
    return np.ascontiguousarray(video[:, :height, :width])
  return np.stack([fit(frame, height, width) for frame in video])


def _find(folder: Path, keys: Sequence[str]) -> tuple[dict[Place, Path], list[str]]:
  """Return the videos of clips in the order of `keys`, and the names of other videos."""
  if not folder.is_dir():
    raise InputError(f'{folder}: there is no such folder of videos; check the path')
  known = stems_of(keys)
  found: dict[Place, Path] = {}
  others = []
  for path in sorted(folder.iterdir()):
    if is_clutter(path) or not (path.is_dir() or is_video(path)):
      continue
    place = _place(path.name if path.is_dir() else path.stem, known)
    if place is None:
      others.append(path.name)
    elif (other := found.setdefault(place, path)) != path:
      raise InputError(
        f'{folder}: {other.name} and {path.name} are both the video of clip {place[0]!r}, seed'
        f' {place[1]}: remove one'
      )
  order = {key: number for number, key in enumerate(keys)}
  return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1]))), others


def _place(stem: str, known: dict[str, str]) -> Place | None:
  """Return the clip and the seed that a file name stands for; None if there is no such clip."""
  seeded = re.fullmatch(r'(.+)__(\d{1,19})', stem, re.ASCII | re.DOTALL)
  clip = known.get(seeded[1]) if seeded else None
  if stem in known:
    if clip is not None:
      raise InputError(
        f'{stem} names clip {known[stem]!r} and a seed of clip {clip!r}: rename one in the dataset'
      )
    return known[stem], 0
  return (clip, int(seeded[2])) if seeded and clip is not None else None


def _read(path: Path) -> tuple[np.ndarray, float | None]:
  """Return the frames, uint8 [T, H, W, 3], and the frame rate; None for a folder of images."""
  if not path.is_dir():
    return read_video(path)
  pictures = [read_image(file) for file in list_pictures(path)]
  if not pictures:
    raise InputError(f'{path}: holds no images; replace it')
  if len({picture.shape for picture in pictures}) > 1:
    raise InputError(f'{path}: its images differ in size; convert them to one')
  return np.stack(pictures), None


def _look(path: Path) -> Look:
  video, fps = _read(path)
  return Look(len(video), video.shape[1:3], fps)


def _shown(look: Look, fps: float, name: str) -> np.ndarray:
  """Return the indices of the video frames that are shown at the times of a clip's frames."""
  if look.fps is None or _same_rate(look.fps, fps, name):
    return np.arange(look.frames)
  steps = math.ceil(look.frames * fps / look.fps - 1e-6)
  return np.floor(np.arange(steps) * look.fps / fps + 1e-6).astype(int).clip(max=look.frames - 1)


def _same_rate(found: float | None, wanted: float, name: str) -> bool:
  if found is None or abs(found - wanted) <= _SAME_RATE * wanted:
    return True
  return name.lower().endswith('.gif') and abs(1 / found - 1 / wanted) <= _GIF_TICK / 2 + 1e-6


def _same_size(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
  """Return whether sizes agree; H.264 pads an odd side by one pixel (`media.video_io`)."""
  return found == wanted or found == tuple(side + side % 2 for side in wanted)


def _refuse(folder: Path, deviating: dict[str, list[str]], allow: Collection[str], clips: int):
  for kind, found in deviating.items():
    if found and kind not in allow:
      raise InputError(f'{folder}: {_said(kind, found, clips)} ({_some(found)}): {_REMEDIES[kind]}')


def _notes(folder: Path, deviating: dict[str, list[str]], clips: int) -> list[str]:
  done = {
    'missing': 'not scored',
    'fps': 'each frame of a clip was compared with the frame shown at its time',
    'length': 'clips and videos were cut to the common length',
    'size': 'they were resized with antialiasing and cropped',
  }
  return [
    f'{folder}: {_said(kind, found, clips)}; {done[kind]} ({_some(found)})'
    for kind, found in deviating.items()
    if found
  ]


def _said(kind: str, found: list[str], clips: int) -> str:
  count = len(found)
  if kind == 'missing':
    return f'{count} of {clips} clips have no readable video of every seed'
  what = {'fps': 'frame rate', 'length': 'number of frames', 'size': 'size'}[kind]
  return f'another {what} than that of the clip in {count} video{"s" * (count > 1)}'


def _by(size: tuple[int, ...]) -> str:
  return f'{size[1]}x{size[0]}'


def _some(names: Sequence[str]) -> str:
  more = f'; and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
  return '; '.join(names[:_LISTED]) + more
