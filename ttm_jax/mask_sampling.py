"""Move, resample and dilate the masks of one object, bool [T, H, W], frame by frame.

Pixels are sampled from the nearest one; what leaves the image is lost. Frames without the object
and the empty surroundings of a mask are skipped, since most of a label map is background.
"""

import numpy as np


def round_half_up(x: np.ndarray) -> np.ndarray:
  """Round to the nearest integer, halves up; half to even would widen every other object."""
  # Coordinates that are halves up to rounding errors of the arithmetic are rounded alike.
  return np.floor(np.round(x, 9) + 0.5).astype(np.int64)


def shifted(mask: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """Shift each frame by whole pixels (x, y), int [T, 2]."""
  result = np.zeros_like(mask)
  height, width = mask.shape[1:]
  for frame, (x, y) in enumerate(offsets.tolist()):
    if abs(x) < width and abs(y) < height:
      rows = slice(max(y, 0), height + min(y, 0)), slice(max(-y, 0), height - max(y, 0))
      columns = slice(max(x, 0), width + min(x, 0)), slice(max(-x, 0), width - max(x, 0))
      result[frame, rows[0], columns[0]] = mask[frame, rows[1], columns[1]]
  return result


def resampled(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Sample each frame at its own rows int [T, H] and columns int [T, W]; False outside."""
  result = np.zeros_like(mask)
  height, width = mask.shape[1:]
  row_inside = (rows >= 0) & (rows < height)
  column_inside = (columns >= 0) & (columns < width)
  for frame, picture in enumerate(mask):
    y, x = np.flatnonzero(row_inside[frame]), np.flatnonzero(column_inside[frame])
    if len(y) and len(x) and picture.any():
      taken = picture.take(rows[frame, y], axis=0).take(columns[frame, x], axis=1)
      result[frame, y[0] : y[-1] + 1, x[0] : x[-1] + 1] = taken
  return result


def rotated(mask: np.ndarray, centers: np.ndarray, degrees: np.ndarray) -> np.ndarray:
  """Rotate each frame about its center (x, y), float [T, 2], clockwise by float [T] degrees."""
  result = np.zeros_like(mask)
  height, width = mask.shape[1:]
  for frame, picture in enumerate(mask):
    y, x = np.nonzero(picture)
    if not len(y):
      continue
    (cx, cy), angle = centers[frame], np.deg2rad(degrees[frame])
    # Nothing lands farther from the center than the farthest pixel, plus rounding.
    radius = np.sqrt(((y - cy) ** 2 + (x - cx) ** 2).max()) + 1
    top, bottom = max(0, int(cy - radius)), min(height, int(cy + radius) + 2)
    left, right = max(0, int(cx - radius)), min(width, int(cx + radius) + 2)
    dy, dx = np.arange(top, bottom)[:, None] - cy, np.arange(left, right) - cx
    sine, cosine = np.sin(angle), np.cos(angle)
    source_y = round_half_up(cy + cosine * dy - sine * dx)
    source_x = round_half_up(cx + sine * dy + cosine * dx)
    inside = (source_y >= 0) & (source_y < height) & (source_x >= 0) & (source_x < width)
    at = np.clip(source_y, 0, height - 1), np.clip(source_x, 0, width - 1)
    result[frame, top:bottom, left:right] = picture[at] & inside
  return result


def centroids(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the centroid (x, y) of each frame, float [T, 2], and its area, int [T].

  A frame without the object has area 0 and the centroid (0, 0).
  """
  by_row, by_column = mask.sum(axis=2), mask.sum(axis=1)
  area = by_row.sum(axis=1)
  some = np.maximum(area, 1)
  x, y = np.arange(mask.shape[2]), np.arange(mask.shape[1])
  return np.stack([by_column @ x / some, by_row @ y / some], axis=-1), area


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
  """Dilate a mask, bool [T, H, W], with a square of side 2 * radius + 1, within the image."""
  tall = mask.copy()
  for shift in range(1, radius + 1):
    tall[:, shift:] |= mask[:, :-shift]
    tall[:, :-shift] |= mask[:, shift:]
  grown = tall.copy()
  for shift in range(1, radius + 1):
    grown[..., shift:] |= tall[..., :-shift]
    grown[..., :-shift] |= tall[..., shift:]
  return grown
