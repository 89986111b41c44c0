"""Common types of all sources: a video with its description and masks, picklable for workers."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_tools.sources import decode
from data_tools.sources.descriptions import Description
from ttm_jax.data.texts import is_unicode
from ttm_jax.errors import InputError, printable
from ttm_jax.media.video_reader import EXTENSIONS, Frame, Probe

NOTHING_SAID = Description('', '', {}, {})
_LONGEST = 255  # Maximum bytes of a file or folder name on common file systems.
VIDEOS = EXTENSIONS


class Masks(Protocol):
  """The label maps of a video, read on demand."""

  @property
  def paths(self) -> tuple[str, ...]:
    """Files and folders that the masks are read from."""
    ...

  def check(self, path: str, seen: Probe) -> None:
    """Raise InputError if the masks do not match the frames of the video at `path`.

    Args:
      path: the video file or image folder, for the error message.
      seen: size and number of frames of the video.
    """
    ...

  def notes(self) -> list[str]:
    """Return notes on how the masks were interpreted, for the report. Call `check` first."""
    ...

  def window(self, numbers: Sequence[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the label maps of the given frames.

    Args:
      numbers: frame numbers in the video, from 0.
      fit: crops and resizes a label map uint8 [H, W] to the size of the clip (nearest neighbor).

    Returns:
      uint8 [T, H', W'].
    """
    ...


@dataclasses.dataclass(frozen=True)
class Video:
  """One video of a source. It is small and picklable; no frame is decoded yet.

  Attributes:
    key: unique name in the source, with parts separated by slashes.
    path: a video file, a folder of images, or an image.
    description: captions and object prompts; empty texts are filled in by the steps.
    masks: label maps, or None if the source has none.
    fps: frames per second of images; None for a video file.
    problem: why the video cannot be used, if known before it is opened; else ''.
    beside: other files that belong to the video, such as a caption file.
    repeat: number of frames that show the image `path`; 0 if `path` is not an image.
  """

  key: str
  path: str
  description: Description = NOTHING_SAID
  masks: Masks | None = None
  fps: float | None = None
  problem: str = ''
  beside: tuple[str, ...] = ()
  repeat: int = 0

  def probe(self) -> Probe:
    """Return frame count, frame rate and size; see `decode.probe` for the errors."""
    return decode.probe(self.path, self.fps, self.repeat)

  def frames(self, seen: Probe) -> Iterator[Frame]:
    """Yield the frames; see `decode.frames`."""
    return decode.frames(self.path, seen, self.repeat)

  @property
  def paths(self) -> tuple[str, ...]:
    """All files and folders of the video, its masks and its description."""
    return (self.path, *self.beside, *(self.masks.paths if self.masks else ()))


def check_folder(folder: Path) -> None:
  """Raise InputError unless `folder` is an existing folder."""
  if not os.path.isdir(folder):  # Unlike Path.is_dir, does not raise for too long a name.
    raise InputError(f'{folder}: there is no such folder; check the path')


def within(root: Path, name: str) -> Path:
  """Return the path of `name` under `root`; see `inside` for the arguments and errors."""
  return root / inside(root, name)


def inside(root: Path, name: str) -> str:
  """Normalize a path from a table to one relative to `root`, with forward slashes.

  Args:
    root: folder of the source.
    name: relative or absolute path. It may contain `./` or `..`, end in a slash, or use Windows
      backslashes.

  Raises:
    InputError: if the path leads out of `root`, directly or by a symbolic link, or is not a valid
      file name.
  """
  if problem := unusable(name):
    raise InputError(f'{name}: {problem}')
  if '\\' in name and not os.path.lexists(root / name):
    name = name.replace('\\', '/')
  path = os.path.relpath(root / name, root)
  real, place = os.path.realpath(root), os.path.realpath(root / name)
  if _is_outside(path):  # Perhaps an absolute path that reaches the root through a link.
    path = os.path.relpath(place, real)
  if _is_outside(path) or not Path(os.path.realpath(root / path)).is_relative_to(real):
    raise InputError(f'{name}: is outside of {root}; give a path inside it')
  return Path(path).as_posix()


def _is_outside(path: str) -> bool:
  return Path(path).parts[:1] == (os.pardir,)


def unusable(name: str) -> str:
  """Return why a file name is invalid, with the remedy; '' if it is valid."""
  if '\0' in name:
    return 'the name of a file contains a NUL character; correct it'
  if not is_unicode(name):
    return 'the name of a file is not valid Unicode; rename it'
  longest = max(len(part.encode()) for part in re.split(r'[/\\]', name))
  if longest > _LONGEST:
    return f'a file or folder name has {longest} bytes, more than {_LONGEST}; shorten it'
  return ''


def unique(videos: Sequence[Video], where: str) -> list[Video]:
  """Validate the keys of the videos. Set `problem` for a key that cannot be stored.

  Raises:
    InputError: if there are no videos, or two share a key.
  """
  keys: set[str] = set()
  checked = []
  for video in videos:
    if not is_unicode(video.key) or '\0' in video.key:
      key = printable(video.key)
      problem = video.problem or f'{key}: {unusable(video.key)}'
      video = dataclasses.replace(video, key=key, problem=problem)
    if video.key in keys:
      raise InputError(f'{where}: two videos have the name "{video.key}"; rename one')
    keys.add(video.key)
    checked.append(video)
  if not checked:
    raise InputError(f'{where}: contains no videos; check the path')
  return checked
