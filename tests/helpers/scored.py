"""Small clips, videos and metrics for tests of scoring."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.helpers.metric_samples import label_maps
from ttm_jax.data.clips import write_clips
from ttm_jax.data.schema import Clip
from ttm_jax.media.video_io import write_video
from ttm_jax.metrics.base import Sample, mean_of_rows
from ttm_jax.metrics.scored_videos import stem_of

FRAMES, HEIGHT, WIDTH, FPS = 4, 24, 32, 8.0
KEYS = ('a/0001', 'b', 'c c', 'd')


def clip(key: str, number: int, frames: int = FRAMES, size=(HEIGHT, WIDTH)) -> Clip:
  """Return a clip of one gray, with 1 + number % 2 objects."""
  ids = label_maps(frames, size, 1 + number % 2)
  video = np.full((*ids.shape, 3), 40 * (number + 1), np.uint8)
  names = ('thing', 'other')[: int(ids.max())]
  prompts = tuple(f'a {name} that moves' for name in names)
  return Clip(key, video, ids, FPS, f'Caption of {key}.', f'Motion of {key}.', names, prompts)


def clips(keys: Sequence[str] = KEYS) -> list[Clip]:
  """Return one clip for each key."""
  return [clip(key, number) for number, key in enumerate(keys)]


def save_clips(path: Path, some: Sequence[Clip] | None = None) -> Path:
  """Write clips as the split `validation` of a dataset; return its folder."""
  write_clips(path, {'validation': clips() if some is None else some})
  return path


def save_videos(
  folder: Path, shift: int = 0, keys: Sequence[str] = KEYS, seed: int | None = None
) -> Path:
  """Write a video for each clip, brighter by `shift` than the clip; return the folder."""
  for number, key in enumerate(KEYS):
    if key in keys:
      name = stem_of(key) + ('' if seed is None else f'__{seed}')
      write_video(folder / f'{name}.mp4', clip(key, number).video + np.uint8(shift), FPS)
  return folder


@dataclasses.dataclass(frozen=True)
class Brightness:
  """A metric: how much brighter a video is than its clip, by its last frame."""

  name: str = 'brightness'
  title: str = 'brightness (levels)'
  higher_is_better: bool = False
  protocol: str = 'mean difference of the last frame'
  least: int = 3

  def measure(self, samples: Sequence[Sample]) -> np.ndarray:
    """Return one value per sample."""
    found = [s.video[-1].astype(float).mean() - s.clip.video[-1].mean() for s in samples]
    return np.array(found)[:, None]

  summarize = staticmethod(mean_of_rows)


@dataclasses.dataclass(frozen=True)
class Spread:
  """A metric of two features per sample, whose number is no mean."""

  name: str = 'spread'
  title: str = 'spread'
  higher_is_better: bool = True
  protocol: str = 'standard deviation of the mean gray'
  least: int = 100

  def measure(self, samples: Sequence[Sample]) -> np.ndarray:
    """Return the mean grays of video and clip."""
    return np.array([[s.video.mean(), s.clip.video.mean()] for s in samples])

  def summarize(self, rows: np.ndarray) -> float:
    """Return the spread of the videos."""
    return float(rows[:, 0].std()) if len(rows) else float('nan')
