"""Read motion that other programs wrote: boxes, point tracks, and cut-and-drag clips."""

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.inference.request import fit
from ttm_jax.media.images import open_content, open_image, sorted_by_number
from ttm_jax.media.label_images import read_masks
from ttm_jax.media.video_reader import stream_video
from ttm_jax.studio.backends import Limits
from ttm_jax.studio.motion import Motion
from ttm_jax.studio.motion_edits import Edit
from ttm_jax.studio.project_file import DAMAGE
from ttm_jax.trajectory import PALETTES

MOST_FRAMES = 2000
_MOST_BYTES = 256 * 2**20  # Of the unpacked entries of an archive, and of the pixels of a clip.
_MOST_TRACKS = 2000


def boxes(content: bytes, limits: Limits) -> list[Edit]:
  """Return the edits that fit objects to boxes.

  The file is {"boxes": {"1": {"0": [x0, y0, x1, y1], ...}, ...}}, keyframes by object, or a list of
  one box per frame instead of keyframes; x1 and y1 are exclusive. Boxes are in pixels of the video,
  or of "width" and "height", if the file gives them.

  Raises:
    InputError: If the file is not of this form.
  """
  about = _json(content, 'boxes')
  listed = about.get('boxes') if isinstance(about, dict) else None
  if not isinstance(listed, dict) or not listed:
    raise InputError('the file of boxes must hold {"boxes": {"1": {"0": [x0, y0, x1, y1]}}}')
  scale = _scale(about, limits)
  edits = []
  for number, given in listed.items():
    if not number.isdecimal() or len(number) > 2:
      raise InputError(f'the file of boxes names an object {number!r:.40}: use its number, 1 to 8')
    if isinstance(given, list):
      given = {str(frame): box for frame, box in enumerate(given) if box is not None}
    try:
      keys = {k: (np.array(box, float).reshape(2, 2) * scale).ravel() for k, box in given.items()}
      values = {k: [round(float(v), 3) for v in box] for k, box in keys.items()}
    except (AttributeError, TypeError, ValueError) as error:
      raise InputError(f'a box of object {number} is not [x0, y0, x1, y1] in pixels') from error
    edits.append(Edit.from_json({'kind': 'fit_boxes', 'object': int(number), 'boxes': values}))
  return edits


def tracks(content: bytes, motion: Motion, limits: Limits) -> list[Edit]:
  """Return the edits that move objects along point tracks.

  The file is a list of tracks, each a list of {"x", "y"} or [x, y] per frame, as editors for ATI
  and Wan-Move write it; or {"points": [...], "visible": [...]} of such lists, as
  `data_tools.point_lists` writes one clip. A track belongs to the object that it begins on, or else
  to the nearest one. The tracks of an object move it by their mean displacement. Another number of
  frames is stretched to the clip's.

  Args:
    content: The file.
    motion: The current trajectory.
    limits: What the networks can generate.

  Raises:
    InputError: If the file is not of this form, or there is no object.
  """
  about = _json(content, 'tracks')
  listed = about.get('points', about.get('tracks')) if isinstance(about, dict) else about
  wrong = InputError('the file of tracks must be a list of tracks, each a list of {"x", "y"}')
  if isinstance(listed, list) and listed and isinstance(listed[0], dict):
    listed = [listed]
  if not isinstance(listed, list) or not 0 < len(listed) <= _MOST_TRACKS:
    raise wrong
  if not motion.layers:
    raise InputError('there is no object that tracks could move: paint one first')
  scale = _scale(about, limits)
  moves: dict[int, list[np.ndarray]] = {}
  starts = {obj: layer.first() for obj, layer in motion.layers.items()}
  for track in listed:
    try:
      points = [[p['x'], p['y']] if isinstance(p, dict) else p for p in track]
      xy = np.array(points, float) * scale
    except (KeyError, TypeError, ValueError) as error:
      raise wrong from error
    if xy.ndim != 2 or xy.shape[1] != 2 or not 0 < len(xy) <= MOST_FRAMES:
      raise wrong
    if not np.isfinite(xy).all() or np.abs(xy).max() > 1e5:
      raise InputError('a track has points that are far outside of the picture')
    at = np.linspace(0, len(xy) - 1, limits.frames)
    each = [np.interp(at, np.arange(len(xy)), column) for column in xy.T]
    moves.setdefault(_owner(xy[0], starts, motion), []).append(np.stack(each, -1))
  edits = []
  for obj, paths in sorted(moves.items()):
    offset = np.mean([path - path[0] for path in paths], axis=0).round(3)
    path = {str(frame): pair for frame, pair in enumerate(offset.tolist())}
    edits.append(Edit.from_json({'kind': 'translate', 'object': obj, 'path': path}))
  return edits


def _owner(point: np.ndarray, starts: dict[int, np.ndarray], motion: Motion) -> int:
  """Return the object that a track begins on, or else the one with the nearest centroid."""
  x, y = np.floor(point).astype(int)
  for obj, mask in starts.items():
    if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]:
      return obj
  return min(starts, key=lambda obj: np.hypot(*(motion.layers[obj].centers[0] - point)))


def clip(content: bytes, name: str, obj: int, limits: Limits) -> dict[int, np.ndarray]:
  """Return the layers, uint8 [T, H, W] by object, of a cut-and-drag clip.

  The clip is the mask of what was dragged: a video (mp4, GIF, WebP) that is bright on it, which
  becomes object `obj`; or a zip of mask images, one per frame, of any form that `label_images`
  reads, whose objects keep their numbers.

  Args:
    content: The file.
    name: Its name, for messages.
    obj: The object of a video.
    limits: Size and number of frames, to which the clip is resized, cropped and stretched.

  Raises:
    InputError: If the file is damaged, too large, or shows no object.
  """
  if content[:4] == b'PK\x03\x04':
    frames = _zipped(content, name)
  elif content[:4] in (b'GIF8', b'RIFF') or content[:8] == b'\x89PNG\r\n\x1a\n':
    frames = [frame * np.uint8(obj) for frame in _animated(content, name)]
  else:
    frames = [frame * np.uint8(obj) for frame in _filmed(content, name)]
  at = np.floor(np.linspace(0, len(frames) - 1, limits.frames) + 0.5).astype(int)
  ids = np.stack([fit(frames[i], limits.height, limits.width, nearest=True) for i in at])
  present = np.unique(ids[ids > 0]).tolist()
  if not present:
    raise InputError(f'{name} shows no object: it must be bright where the object is')
  return {o: np.where(ids == o, np.uint8(o), np.uint8(0)) for o in present}


def _zipped(content: bytes, name: str) -> list[np.ndarray]:
  try:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
      entries = [e for e in file.infolist() if not e.is_dir() and not e.filename.startswith('__')]
      if not 0 < len(entries) <= MOST_FRAMES:
        raise InputError(f'{name} must hold one mask per frame, 1 to {MOST_FRAMES} images')
      total, unpacked = 0, {}
      for entry in entries:
        with file.open(entry) as opened:
          unpacked[entry.filename] = opened.read(_MOST_BYTES - total + 1)
        total += len(unpacked[entry.filename])
        if total > _MOST_BYTES:
          raise InputError(f'{name} unpacks to more than {_MOST_BYTES >> 20} MB')
  except (*DAMAGE, RuntimeError) as error:
    raise InputError(f'{name} is damaged or cut off: copy it again') from error
  order = sorted_by_number([Path(entry) for entry in unpacked])
  with tempfile.TemporaryDirectory(prefix='ttm-studio') as folder:
    try:
      files = []
      for number, path in enumerate(order):  # Names in the archive never become paths.
        files.append(Path(folder) / f'{number:05d}.png')
        files[-1].write_bytes(unpacked[str(path)])
        with open_image(files[-1]) as image:
          if image.width * image.height * len(order) > _MOST_BYTES:
            size = f'{len(order)} frames of {image.width} x {image.height}'
            raise InputError(f'{name} is too large: {size}')
      return read_masks(files, PALETTES['spread8'], name)
    except InputError as error:
      raise InputError(str(error).replace(f'{folder}/', f'{name}, mask ')) from error


def _animated(content: bytes, name: str) -> list[np.ndarray]:
  frames = []
  try:
    with open_content(content, ['GIF', 'WEBP', 'PNG']) as image:
      for number in range(min(getattr(image, 'n_frames', 1), MOST_FRAMES)):
        image.seek(number)
        frames.append((np.asarray(image.convert('L')) > 127).astype(np.uint8))
        if len(frames) * frames[0].size > _MOST_BYTES:
          raise InputError(f'{name} is too large: shorten it or scale it down')
  except InputError:
    raise
  except Exception as error:  # Decoders raise many types of exceptions.
    raise InputError(f'{name} is damaged, or not a clip: use mp4, GIF, WebP or a zip') from error
  return frames


def _filmed(content: bytes, name: str) -> list[np.ndarray]:
  frames: list[np.ndarray] = []
  with tempfile.TemporaryDirectory(prefix='ttm-studio') as folder:
    path = Path(folder) / 'clip.mp4'
    path.write_bytes(content)
    try:
      for pixels in stream_video(path)[1]:
        frames.append((pixels.mean(axis=-1) > 127).astype(np.uint8))
        if len(frames) > MOST_FRAMES or len(frames) * frames[0].size > _MOST_BYTES:
          raise InputError('the clip is too large: shorten it or scale it down')
    except InputError as error:
      reason = str(error).replace(f'{path}: ', '').replace(str(path), name)
      raise InputError(f'{name}: {reason}') from error
  return frames


def _json(content: bytes, what: str) -> Any:
  try:
    return json.loads(content)
  except (ValueError, RecursionError) as error:
    raise InputError(f'the file of {what} is not valid JSON: export it again') from error


def _scale(about: Any, limits: Limits) -> np.ndarray:
  """Return the factors (x, y) from the file's pixels to those of the video."""
  size = (limits.width, limits.height)
  given = (
    [about.get(n, s) for n, s in zip(('width', 'height'), size, strict=True)]
    if (isinstance(about, dict))
    else list(size)
  )
  if not all(type(side) in (int, float) and 0 < side < 1e5 for side in given):
    raise InputError('"width" and "height" of the file must be its size in pixels')
  return np.array(size, float) / np.array(given, float)
