"""Videos with one label picture a frame, as in video object segmentation (DAVIS and its kin).

Three layouts, which may be mixed under one root:

    KEY/video.mp4  KEY/masks/00000.png ...            a video, or a folder of pictures, beside masks
    KEY/JPEGImages/00000.jpg ...  KEY/Annotations/00000.png ...
    JPEGImages/KEY/00000.jpg ...  Annotations/KEY/00000.png ...   also one level deeper (480p)

The values of the PNGs (palette or grey) are object ids, 0 the background. Captions are a JSON file
as `ttm_jax.data.folders` describes; without it, steps find what is said and no object is named.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.sources.base import NOTHING_SAID, Video, unique, within
from data_tools.sources.decode import Probe, numbers_first
from ttm_jax.data.folders import Description
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class PngMasks:
  """One PNG a frame, in a folder; only those of the frames in use are read."""

  folder: str

  def check(self, path: str, seen: Probe) -> None:
    files = self._files()
    height, width = read_labels(files[0]).shape
    if (height, width) != seen.size:
      raise InputError(
        f'{path}: is {seen.size[1]}x{seen.size[0]}, but its masks are {width}x{height};'
        ' resize the masks, by nearest neighbour'
      )
    if len(files) != seen.frames:
      raise InputError(
        f'{path}: has {seen.frames} frames, but there are {len(files)} masks; make one mask a frame'
      )

  def window(self, numbers: Sequence[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    files = self._files()
    return np.stack([fit(read_labels(files[number])) for number in numbers])

  def _files(self) -> list[Path]:
    return _listed(self.folder, os.stat(self.folder).st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _listed(folder: str, _: int) -> list[Path]:
  """The PNGs of a folder, in order; a window does not list a long video again."""
  files = [f for f in Path(folder).glob('*.png') if f.name[0] != '.']
  return sorted(files, key=numbers_first)


def read_labels(file: Path) -> np.ndarray:
  """The values of a palette or grey PNG, object ids: uint8 [H, W].

  Raises:
    InputError: it is no such picture, or holds an id above 8 (255 often means "ignore").
  """
  try:
    with Image.open(file) as picture:
      mode, values = picture.mode, np.array(picture)
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise InputError(f'{file}: not a readable picture; give a PNG label map') from error
  if mode not in ('P', 'L'):
    raise InputError(
      f'{file}: a PNG of mode {mode}, whose pixels are not object ids; save it with a palette'
    )
  if values.max(initial=0) > MAX_OBJECTS:
    raise InputError(
      f'{file}: holds the value {values.max()}; number the objects 1..{MAX_OBJECTS}, and all else 0'
    )
  return values


def vos_videos(
  root: Path, captions: Mapping[str, Description] | None, fps: float | None = None
) -> list[Video]:
  """The videos under `root`: those that `captions` describes, or all there are.

  A key that has no usable files gives a video with a `problem`, so that the report can tell.

  Args:
    fps: of folders of pictures.

  Raises:
    InputError: `root` is no folder, or there is nothing in it.
  """
  if not root.is_dir():
    raise InputError(f'{root}: there is no such folder; check the path')
  annotations = _level(root / 'Annotations')
  if captions is None:
    folder = annotations or root
    keys = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != '.')
    captions = dict.fromkeys(keys, NOTHING_SAID)
  videos = []
  for key, said in captions.items():
    try:
      if annotations and (annotations / key).is_dir():
        deeper = root / 'JPEGImages' / annotations.name
        pictures = deeper if deeper.is_dir() else root / 'JPEGImages'
        path, masks = within(pictures, key), within(annotations, key)
      else:
        folder = within(root, key)
        path = video_of(folder)
        masks = masks_of(folder, path)
      videos.append(Video(key, str(path), said, PngMasks(str(masks)), fps))
    except InputError as error:
      videos.append(Video(key, str(root / key), said, problem=str(error)))
  return unique(videos, str(root))


def _level(folder: Path) -> Path | None:
  """The folder that holds one folder a video: itself, or its only subfolder (480p)."""
  if not folder.is_dir() or any(folder.glob('*.png')):
    return None
  inside = [f for f in folder.iterdir() if f.is_dir()]
  if len(inside) == 1 and not any(inside[0].glob('*.png')):
    return inside[0]
  return folder


def video_of(folder: Path) -> Path:
  """The video of a folder, or its folder of JPEGs.

  Raises:
    InputError: there is none, or more than one.
  """
  if not folder.is_dir():
    raise InputError(f'{folder}: there is no such folder; correct its key or its place')
  if (folder / 'video.mp4').is_file():
    return folder / 'video.mp4'
  videos = list(folder.glob('*.mp4'))
  if not videos and (folder / 'JPEGImages').is_dir():
    return folder / 'JPEGImages'
  if len(videos) != 1:
    raise InputError(f'{folder}: holds {len(videos)} mp4 files; name the right one video.mp4')
  return videos[0]


def masks_of(folder: Path, video: Path) -> Path:
  """The folder of PNGs beside a video.

  Raises:
    InputError: there is none, or more than one.
  """
  candidates = [d for d in folder.iterdir() if d.is_dir() and d != video and any(d.glob('*.png'))]
  if folder / 'masks' in candidates:
    return folder / 'masks'
  if len(candidates) != 1:
    raise InputError(
      f'{folder}: {len(candidates)} of its folders hold PNG files; name the right one masks'
    )
  return candidates[0]
