"""Benchmarks as a JSON list: a video or an image with masks, boxes or point tracks, and texts.

Use this layout for a benchmark that no other source reads. The list is benchmark.json in the
folder, or the file of --captions. Paths are relative to the folder:

    [{"video": "videos/dog.mp4", "c": "A dog runs.", "masks": "masks/dog"},
     {"image": "images/cat.jpg", "fps": 16, "c": "A cat jumps.",
      "boxes": {"1": [[10, 20, 60, 80], null, [12, 20, 62, 80]]}},
     {"image": "images/ball.jpg", "fps": 16, "c": "A ball rolls.", "tracks": "tracks/ball.npy",
      "visibility": "tracks/ball_visible.npy", "mask": "masks/ball.png"}]

    video, image     one of the two. An image is repeated for all frames: a video without motion.
    key              name of the video; by default its path without the extension
    fps              frames per second of an image; default --source_fps
    masks            a folder with one mask per frame (see `ttm_jax.media.label_images`)
    boxes            by object id, one box x0, y0, x1, y1 in pixels per frame; null if not visible
    tracks           NumPy file of point tracks, with optional `visibility` and `mask`
                     (see `data_tools.sources.points`); without a mask, point n is object n
    c                caption
    c_motion, c_local, names     optional texts as in a captions.json
                     (see `data_tools.sources.descriptions`)
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.sources.base import Masks, Video, check_folder, unique, within
from data_tools.sources.box_masks import BoxMasks, parse_boxes
from data_tools.sources.descriptions import description
from data_tools.sources.points import PointMasks
from data_tools.sources.vos import FileMasks
from ttm_jax.data.texts import parse_json, read_text
from ttm_jax.errors import InputError
from ttm_jax.json_lines import is_number
from ttm_jax.media.label_images import list_masks

LIST = 'benchmark.json'
_MASKS = ('masks', 'boxes', 'tracks')


def listed_videos(root: Path, table: Path | None = None, fps: float | None = None) -> list[Video]:
  """Return the videos of a JSON list, in order.

  Args:
    root: folder of the benchmark.
    table: the list; by default LIST in the folder.
    fps: frames per second of images whose entry has none.

  Raises:
    InputError: if the folder or the list cannot be read, or an entry is invalid.
  """
  check_folder(root)
  table = table or root / LIST
  content = parse_json(read_text(table), str(table))
  if not isinstance(content, list) or not content:
    raise InputError(f'{table}: must be a JSON list with one object per video')
  videos = [
    _video(root, f'{table}: entry {number}', entry, fps) for number, entry in enumerate(content, 1)
  ]
  return unique(videos, str(table))


def _video(root: Path, where: str, entry: Any, fps: float | None) -> Video:
  if not isinstance(entry, Mapping):
    raise InputError(f'{where}: must be a JSON object')
  given = [name for name in ('video', 'image') if name in entry]
  if len(given) != 1:
    raise InputError(f'{where}: must have either "video" or "image"')
  still = given == ['image']
  path = _path(root, where, entry, given[0])
  rate = entry.get('fps', fps) if still else None
  if still and not (is_number(rate) and 0 < rate < 1e4):
    raise InputError(f'{where}: give "fps", the frames per second of the image, above 0')
  key = entry.get('key', Path(entry[given[0]]).with_suffix('').as_posix())
  if not isinstance(key, str) or not key.strip():
    raise InputError(f'{where}: "key" must be a text')
  masks, frames = _masks(root, where, entry, str(path), rate, still)
  said = description(where, entry, complete=False)
  return Video(key, str(path), said, masks, rate, repeat=frames if still else 0)


def _masks(
  root: Path, where: str, entry: Mapping[str, Any], path: str, fps: float | None, still: bool
) -> tuple[Masks, int]:
  """Return the masks of an entry, and the number of frames that have one."""
  given = [name for name in _MASKS if name in entry]
  if len(given) != 1:
    raise InputError(f'{where}: must have one of {", ".join(_MASKS)}')
  if given == ['masks']:
    folder = _path(root, where, entry, 'masks')
    if not folder.is_dir() or not (found := list_masks(folder)):
      raise InputError(f'{where}: "masks" must be a folder with one mask per frame')
    return FileMasks(str(folder)), len(found)
  if given == ['boxes']:
    boxes = parse_boxes(where, entry['boxes'])
    frames = len(boxes[0][1])
    return BoxMasks(where, boxes, path, fps, frames if still else 0), frames
  tracks, visibility, mask = (
    str(_path(root, where, entry, name)) if name in entry else ''
    for name in ('tracks', 'visibility', 'mask')
  )
  masks = PointMasks(tracks, visibility, mask, False, path, fps)
  frames = len(masks.points.xy)
  return dataclasses.replace(masks, repeat=frames if still else 0), frames


def _path(root: Path, where: str, entry: Mapping[str, Any], field: str) -> Path:
  name = entry[field]
  if not isinstance(name, str) or not name:
    raise InputError(f'{where}: "{field}" must be a path')
  try:
    path = within(root, name)
  except InputError as error:
    raise InputError(f'{where}: {error}') from error
  if not path.exists():
    raise InputError(f'{where}: there is no "{field}" {path}; check the path')
  return path
