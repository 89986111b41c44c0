"""Write trajectories and videos in the formats that other programs read."""

import io
import json
import tempfile
from pathlib import Path

import numpy as np

from ttm_jax.media.animations import gif, webp
from ttm_jax.media.video_io import write_video
from ttm_jax.studio.motion import Motion
from ttm_jax.studio.project_file import archive, trajectory_pngs
from ttm_jax.trajectory import boxes

VIDEO_KINDS = ('mp4', 'gif', 'webp')


def video(frames: np.ndarray, fps: float, kind: str, scale: int = 1) -> bytes:
  """Encode a video, uint8 [T, H, W, 3].

  Args:
    frames: The frames.
    fps: Frames per second.
    kind: 'mp4', 'gif' or 'webp'.
    scale: Whole factor by which pixels are enlarged.
  """
  frames = frames.repeat(scale, 1).repeat(scale, 2)
  if kind == 'gif':
    return gif(frames, fps)
  if kind == 'webp':
    return webp(frames, fps, lossless=False)
  with tempfile.TemporaryDirectory(prefix='ttm-studio') as folder:
    path = Path(folder) / 'video.mp4'
    write_video(path, frames, fps)
    return path.read_bytes()


def png_archive(ids: np.ndarray) -> bytes:
  """Return a label map, uint8 [T, H, W], as a zip of palette PNGs, the folder of `--trajectory`."""
  return archive(trajectory_pngs(ids))


def run_lengths(motion: Motion, fps: float) -> bytes:
  """Return a trajectory in the JSON format of SA-V.

  `masklet[i][j]` is the mask of object `masklet_id[j]` in frame i, as compressed COCO run lengths.
  Objects behind others are whole. SA-V annotates every fourth frame; here, every frame is there.
  """
  from pycocotools import mask as coco

  layers = motion.layers.values()
  frames, height, width = next(iter(layers)).shape
  encoded = []
  for layer in layers:
    masks = np.asfortranarray((layer.ids() > 0).astype(np.uint8).transpose(1, 2, 0))
    encoded.append([{**rle, 'counts': rle['counts'].decode()} for rle in coco.encode(masks)])
  about = {
    'video_id': 'trajectory',
    'video_duration': frames / fps,
    'video_frame_count': frames,
    'video_height': height,
    'video_width': width,
    'masklet_num': len(encoded),
    'masklet_id': [layer.obj for layer in layers],
    'masklet_frame_count': [int(np.count_nonzero(layer.area)) for layer in layers],
    'masklet': [list(masks) for masks in zip(*encoded, strict=True)],
  }
  return json.dumps(about).encode()


def point_tracks(motion: Motion, per_object: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Return points that move with the objects: float32 [T, N, 2] and their visibility bool [T, N].

  The first point of an object is its centroid. Others are spread over the mask of its first frame,
  and keep their place in its bounding box. A hidden point stays where it was seen last.

  Args:
    motion: The trajectory.
    per_object: Points of each object, in the order of the objects.
  """
  tracks, seen = [], []
  for layer in motion.layers.values():
    ids = layer.ids()
    box = boxes(ids)[:, layer.obj - 1].astype(float)
    first = int((layer.area > 0).argmax())
    y, x = np.nonzero(ids[first])
    # Evenly spaced pixels of the mask in reading order.
    chosen = np.linspace(0, len(y) - 1, per_object + 1).astype(int)[1:-1]
    corner, side = box[first, :2], np.maximum(box[first, 2:] - box[first, :2], 1)
    places = [layer.centers]
    for pixel in chosen:
      share = (np.array([x[pixel], y[pixel]]) - corner) / side
      places.append(box[:, :2] + share * (box[:, 2:] - box[:, :2]))
    shown = layer.area > 0
    last = np.maximum.accumulate(np.where(shown, np.arange(len(shown)), first))
    tracks += [place[last] for place in places]
    seen += [shown] * len(places)
  return np.stack(tracks, 1).astype(np.float32), np.stack(seen, 1)


def track_archive(motion: Motion, per_object: int = 1) -> bytes:
  """Return the tracks of a trajectory as a zip.

  tracks.json is a list of tracks, each a list of {"x", "y"} per frame, as the trajectory nodes of
  ATI and Wan-Move in ComfyUI read it. tracks.npy, float32 [1, T, N, 2], and visibility.npy, bool
  [1, T, N], are `--track` and `--track_visibility` of Wan-Move.
  """
  xy, seen = point_tracks(motion, per_object)
  listed = [
    [{'x': round(float(x), 2), 'y': round(float(y), 2)} for x, y in track]
    for track in xy.swapaxes(0, 1)
  ]
  return archive(
    {
      'tracks.json': json.dumps(listed).encode(),
      'tracks.npy': _npy(xy[None]),
      'visibility.npy': _npy(seen[None]),
    }
  )


def _npy(array: np.ndarray) -> bytes:
  file = io.BytesIO()
  np.save(file, array, allow_pickle=False)
  return file.getvalue()


def sheet(frames: np.ndarray) -> tuple[np.ndarray, int]:
  """Lay out frames, uint8 [T, H, W, 3], in one image, row by row; return it and its columns.

  Unused places are black.
  """
  count, height, width = frames.shape[:3]
  columns = int(np.ceil(np.sqrt(count * height / width)))
  columns = max(1, min(count, columns))
  rows = -(-count // columns)
  padded = np.zeros((rows * columns, height, width, 3), np.uint8)
  padded[:count] = frames
  grid = padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
  return grid.reshape(rows * height, columns * width, 3), columns


def stem(words: str) -> str:
  """Return a file name without suffix from words, such as a caption."""
  kept = ''.join(c if c.isascii() and c.isalnum() else '-' for c in words.lower())
  return '-'.join(part for part in kept.split('-') if part)[:40].strip('-') or 'motion'
