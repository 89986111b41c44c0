"""What every source of videos gives: a list of videos, small enough to be sent to workers."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_tools.sources.decode import Probe
from ttm_jax.data.folders import Description
from ttm_jax.errors import InputError
from ttm_jax.video_reader import EXTENSIONS

NOTHING_SAID = Description('', '', {}, {})
VIDEOS = EXTENSIONS


class Masks(Protocol):
  """The label maps of a video, read when they are needed."""

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
  """

  key: str
  path: str
  description: Description = NOTHING_SAID
  masks: Masks | None = None
  fps: float | None = None
  problem: str = ''


def within(root: Path, name: str) -> Path:
  """The path `name` under `root`.

  Raises:
    InputError: it leads out of `root`, directly or by a link.
  """
  path = root / name
  if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
    raise InputError(f'{name}: leads out of {root}; give a path inside it')
  return path


def unique(videos: Sequence[Video], where: str) -> list[Video]:
  """The videos, checked.

  Raises:
    InputError: there are none, or two share a key.
  """
  keys: set[str] = set()
  for video in videos:
    if video.key in keys:
      raise InputError(f'{where}: two videos are called "{video.key}"; rename one')
    keys.add(video.key)
  if not videos:
    raise InputError(f'{where}: holds no videos')
  return list(videos)
