"""Frames of a video file, or of a folder of pictures, with their times.

Video files are read by `ttm_jax.media.video_reader`.
"""

import functools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from ttm_jax.errors import InputError
from ttm_jax.media import video_reader
from ttm_jax.media.images import list_pictures, read_image
from ttm_jax.media.video_reader import Frame, Probe


def probe(path: str | os.PathLike, fps: float | None = None) -> Probe:
  """Return what is known of a video file, or of a folder of pictures shown at `fps`.

  Raises:
    InputError: the file cannot be read (see `video_reader.probe`), or the folder has no pictures
      or no rate.
  """
  path = Path(path)
  if not path.is_dir():
    return video_reader.probe(path)
  files = _pictures(path)
  if not fps:
    raise InputError(f'{path}: pictures have no frame rate; give --source_fps')
  height, width = read_image(files[0]).shape[:2]
  # The rate meant by a decimal: 29.97 is 30000/1001.
  return Probe(len(files), Fraction(fps).limit_denominator(1001), False, (height, width))


def seconds(path: str | os.PathLike, fps: float | None = None) -> float:
  """Return about how long it lasts, without reading it through; 0 if that is unknown."""
  path = Path(path)
  if not path.is_dir():
    return video_reader.seconds(path)
  return probe(path, fps).frames / fps if fps else 0


def frames(path: str | os.PathLike, seen: Probe) -> Iterator[Frame]:
  """Yield the frames of what was probed, in the order they are shown, one in memory at a time.

  Raises:
    InputError: damage that only decoding shows, when the frame it concerns is asked for.
  """
  path = Path(path)
  if not path.is_dir():
    yield from video_reader.frames(path, seen)
    return
  for number, file in enumerate(_pictures(path)):
    yield Frame(number, number / seen.fps, functools.partial(read_image, file))


def _pictures(folder: Path) -> list[Path]:
  files = list_pictures(folder)
  if not files:
    raise InputError(f'{folder}: holds no pictures; give a folder of JPEG or PNG files')
  return files
