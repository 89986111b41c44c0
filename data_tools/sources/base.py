"""What every source of videos gives: a list of videos, small enough to be sent to workers."""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_tools.sources.decode import Probe
from data_tools.sources.descriptions import Description
from ttm_jax.data.texts import is_unicode
from ttm_jax.errors import InputError, printable
from ttm_jax.media.video_reader import EXTENSIONS

NOTHING_SAID = Description('', '', {}, {})
_LONGEST = 255  # Bytes of one part of a path, on all common file systems.
VIDEOS = EXTENSIONS


class Masks(Protocol):
  """The label maps of a video, read when they are needed."""

  @property
  def paths(self) -> tuple[str, ...]:
    """The files and folders that they are read from."""
    ...

  def check(self, path: str, seen: Probe) -> None:
    """Raises InputError where they are not those of the video at `path`."""
    ...

  def notes(self) -> list[str]:
    """Return what was done to understand them, for the report; after `check`."""
    ...

  def window(self, numbers: Sequence[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The label maps of some frames.

    Args:
      numbers: of the frames in the video.
      fit: brings a label map, uint8 [H, W], to the size of the clip by nearest neighbour.

    Returns:
      uint8 [T, H', W'].
    """
    ...


@dataclasses.dataclass(frozen=True)
class Video:
  """One video of a source; small and picklable, nothing of it is decoded yet.

  Attributes:
    key: names it within the source, by parts with slashes.
    path: a video file, or a folder of pictures.
    description: what is said of it; empty texts where steps are to say it.
    masks: its label maps, if the source has some.
    fps: of a folder of pictures.
    problem: why it cannot be used, where that shows before it is opened.
    beside: other files that were read for it, such as a caption.
  """

  key: str
  path: str
  description: Description = NOTHING_SAID
  masks: Masks | None = None
  fps: float | None = None
  problem: str = ''
  beside: tuple[str, ...] = ()

  @property
  def paths(self) -> tuple[str, ...]:
    """All files and folders that it is made of."""
    return (self.path, *self.beside, *(self.masks.paths if self.masks else ()))


def within(root: Path, name: str) -> Path:
  """Return the path of `name` under `root`, see `inside`.

  Raises:
    InputError: see `inside`.
  """
  return root / inside(root, name)


def inside(root: Path, name: str) -> str:
  """Return a file or folder's path relative to `root`, by parts with slashes.

  Args:
    name: as tables of all systems have it: relative or absolute, with `./` or `..`, with a slash at
      the end, or with backslashes where there is no such file on this system.

  Raises:
    InputError: it leads out of `root`, directly or by a link, or no file can have this name.
  """
  if problem := unusable(name):
    raise InputError(f'{name}: {problem}')
  if '\\' in name and not os.path.lexists(root / name):
    name = name.replace('\\', '/')
  path = os.path.relpath(root / name, root)
  real, place = os.path.realpath(root), os.path.realpath(root / name)
  if _is_outside(path):  # An absolute path that names the root by another way.
    path = os.path.relpath(place, real)
  if _is_outside(path) or not Path(os.path.realpath(root / path)).is_relative_to(real):
    raise InputError(f'{name}: leads out of {root}; give a path inside it')
  return Path(path).as_posix()


def _is_outside(path: str) -> bool:
  return Path(path).parts[:1] == (os.pardir,)


def unusable(name: str) -> str:
  """Return why no file of a source may have this name, with the remedy; empty if it may."""
  if '\0' in name:
    return 'a NUL character in the name of a file; correct it'
  if not is_unicode(name):
    return 'the name of a file is not valid Unicode; rename it'
  longest = max(len(part.encode()) for part in re.split(r'[/\\]', name))
  if longest > _LONGEST:
    return f'a file or folder name of {longest} bytes, where {_LONGEST} are possible; shorten it'
  return ''


def unique(videos: Sequence[Video], where: str) -> list[Video]:
  """Return the videos, checked; one whose name cannot be stored gets a `problem`.

  Raises:
    InputError: there are none, or two share a key.
  """
  keys: set[str] = set()
  checked = []
  for video in videos:
    if not is_unicode(video.key) or '\0' in video.key:
      key = printable(video.key)
      problem = video.problem or f'{key}: {unusable(video.key)}'
      video = dataclasses.replace(video, key=key, problem=problem)
    if video.key in keys:
      raise InputError(f'{where}: two videos are called "{video.key}"; rename one')
    keys.add(video.key)
    checked.append(video)
  if not checked:
    raise InputError(f'{where}: holds no videos')
  return checked
