"""Read frames and timestamps from a video file, a folder of images, or an image that is repeated.

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


def probe(path: str | os.PathLike, fps: float | None = None, repeat: int = 0) -> Probe:
  """Return frame count, frame rate and size of a video file or of images.

  Args:
    path: video file, folder of images, or image.
    fps: frames per second of images; not used for a video file.
    repeat: number of frames that show the image `path`; 0 if `path` is not an image.

  Raises:
    InputError: if the file cannot be read (see `video_reader.probe`), the folder has no images, or
      `fps` is missing for images.
  """
  path = Path(path)
  if not path.is_dir() and not repeat:
    return video_reader.probe(path)
  files = [path] * repeat or _pictures(path)
  if not fps:
    what = 'an image' if repeat else 'a folder of images'
    raise InputError(f'{path}: {what} has no frame rate; give --source_fps')
  height, width = read_image(files[0]).shape[:2]
  # Recover NTSC rates from rounded decimals: 29.97 becomes 30000/1001.
  return Probe(len(files), Fraction(fps).limit_denominator(1001), False, (height, width))


def seconds(path: str | os.PathLike, fps: float | None = None, repeat: int = 0) -> float:
  """Estimate the duration in seconds without decoding the video; 0 if unknown."""
  path = Path(path)
  if not path.is_dir() and not repeat:
    return video_reader.seconds(path)
  return probe(path, fps, repeat).frames / fps if fps else 0


def frames(path: str | os.PathLike, seen: Probe, repeat: int = 0) -> Iterator[Frame]:
  """Yield the frames in display order, one in memory at a time.

  Args:
    path, repeat: as in `probe`.
    seen: the result of `probe` for `path`.

  Raises:
    InputError: if a frame is corrupt, when that frame is reached.
  """
  path = Path(path)
  if not path.is_dir() and not repeat:
    yield from video_reader.frames(path, seen)
    return
  for number, file in enumerate([path] * repeat or _pictures(path)):
    yield Frame(number, number / seen.fps, functools.partial(read_image, file))


def _pictures(folder: Path) -> list[Path]:
  files = list_pictures(folder)
  if not files:
    raise InputError(f'{folder}: contains no images; give a folder of JPEG or PNG files')
  return files
