"""A benchmark of two videos in the layout of Wan-Move's evaluation code; one has its pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers import video_fixtures

SIZE = (32, 48)
FRAMES = 6


def picture(path: Path, ids: np.ndarray | None = None) -> Path:
  """Save an image, by default the first frame of a film, and return its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  shown = video_fixtures.film(1, SIZE)[0] if ids is None else ids
  Image.fromarray(shown).save(path)
  return path


def save(path: Path, array: np.ndarray) -> Path:
  """Save an array and return its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  np.save(path, array)
  return path


def straight(start: tuple, step: tuple, frames: int = FRAMES) -> np.ndarray:
  """Return a track float32 [F, 1, 2] that moves by `step` per frame."""
  return (np.array(start) + np.arange(frames)[:, None] * np.array(step))[:, None].astype(np.float32)


def make(root: Path, frames: int = FRAMES) -> Path:
  """Make the benchmark in a new folder and return it."""
  place = root / 'en'
  for name, start in (('dog', (20, 10)), ('cat', (30, 20))):
    picture(place / 'first_frame' / f'{name}.jpg')
    save(place / 'track' / 'single' / f'{name}_tracks.npy', straight(start, (1, 0), frames)[None])
    save(place / 'track' / 'single' / f'{name}_visibility.npy', np.ones((1, frames, 1), bool))
  video_fixtures.save(place / 'video' / 'cat.mp4', video_fixtures.film(frames, SIZE), 16)
  (place / 'single_track.txt').write_text('dog.mp4,A dog runs, fast.\n\ncat.mp4, A cat.\n')
  return root
