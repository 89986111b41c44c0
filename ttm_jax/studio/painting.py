"""Paint the mask of an object with strokes: brush, eraser, lasso and fill."""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ttm_jax.errors import InputError

TOOLS = ('brush', 'eraser', 'lasso', 'fill')
MOST_POINTS = 20_000
_THICKEST = 512


@dataclasses.dataclass(frozen=True)
class Stroke:
  """One stroke.

  Attributes:
    tool: An element of `TOOLS`.
    points: (x, y) in pixels, where (0, 0) is the top left corner of the image; float [n, 2].
    radius: Radius of brush and eraser in pixels.
    tolerance: Largest difference of a color from that of the clicked pixel, summed over R, G and B,
      that fill takes.
  """

  tool: str
  points: np.ndarray
  radius: float = 1.0
  tolerance: float = 60.0

  @classmethod
  def from_json(cls, value: Any) -> 'Stroke':
    """Check a JSON value and return it as a stroke.

    Raises:
      InputError: If it is not a stroke.
    """
    if not isinstance(value, dict) or value.get('tool') not in TOOLS:
      raise InputError(f'a stroke needs a tool: {", ".join(TOOLS)}')
    try:
      points = np.array(value['points'], np.float64)
      radius, tolerance = (float(value.get(k, d)) for k, d in (('radius', 1), ('tolerance', 60)))
    except (KeyError, TypeError, ValueError) as error:
      raise InputError('a stroke needs points (x, y), a radius and a tolerance') from error
    if points.ndim != 2 or points.shape[1] != 2 or not 0 < len(points) <= MOST_POINTS:
      raise InputError(f'a stroke needs 1 to {MOST_POINTS} points (x, y)')
    if not np.isfinite(points).all() or np.abs(points).max() > 1e5:
      raise InputError('a stroke has points that are far outside of the picture')
    if not 0 < radius <= _THICKEST or not 0 <= tolerance <= 765:
      raise InputError(f'the radius must be up to {_THICKEST} pixels, the tolerance up to 765')
    return cls(value['tool'], points, radius, tolerance)


def paint(mask: np.ndarray, picture: np.ndarray, stroke: Stroke) -> np.ndarray:
  """Return the mask of an object after a stroke.

  Args:
    mask: bool [H, W].
    picture: uint8 [H, W, 3]; fill follows its colors.
    stroke: The stroke.

  Returns:
    bool [H, W].

  Raises:
    InputError: If the stroke does not touch the picture.
  """
  covered = _covered(picture, stroke)
  if not covered.any():
    raise InputError(f'the {stroke.tool} does not touch the picture: draw inside of it')
  return mask & ~covered if stroke.tool == 'eraser' else mask | covered


def _covered(picture: np.ndarray, stroke: Stroke) -> np.ndarray:
  """Return the pixels that a stroke covers, bool [H, W]."""
  height, width = picture.shape[:2]
  if stroke.tool == 'fill':
    x, y = (math.floor(value) for value in stroke.points[-1])
    if not (0 <= x < width and 0 <= y < height):
      return np.zeros((height, width), bool)
    return filled(picture, x, y, stroke.tolerance)
  if stroke.tool == 'lasso':
    image = Image.new('1', (width, height))
    corners = [(x - 0.5, y - 0.5) for x, y in stroke.points]
    if len(corners) > 2:
      ImageDraw.Draw(image).polygon(corners, fill=1)
    return np.asarray(image)
  return _near(stroke.points, stroke.radius, height, width)


def _near(points: np.ndarray, radius: float, height: int, width: int) -> np.ndarray:
  """Return the pixels whose centers are within `radius` of a polyline; at least those it hits."""
  covered = np.zeros((height, width), bool)
  for start, end in zip(points, [*points[1:], points[-1]], strict=True):
    low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
    left, top = np.clip(np.floor(low).astype(int), 0, (width, height))
    right, bottom = np.clip(np.ceil(high).astype(int) + 1, 0, (width, height))
    if right <= left or bottom <= top:
      continue
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    way = end - start
    share = ((x - start[0]) * way[0] + (y - start[1]) * way[1]) / max(float(way @ way), 1e-12)
    share = np.clip(share, 0, 1)
    distance = np.hypot(x - start[0] - share * way[0], y - start[1] - share * way[1])
    covered[top:bottom, left:right] |= distance <= max(radius, 0.5)
    for hit_x, hit_y in (start, end):
      if 0 <= hit_x < width and 0 <= hit_y < height:
        covered[int(hit_y), int(hit_x)] = True
  return covered


def filled(picture: np.ndarray, x: int, y: int, tolerance: float) -> np.ndarray:
  """Return the connected region around a pixel whose colors are like its color, bool [H, W].

  Args:
    picture: uint8 [H, W, 3].
    x: Column of the pixel.
    y: Row of the pixel.
    tolerance: See `Stroke`.
  """
  alike = np.abs(picture.astype(int) - picture[y, x].astype(int)).sum(axis=-1) <= tolerance
  image = Image.fromarray(alike.astype(np.uint8)).copy()  # Not of the array's memory.
  ImageDraw.floodfill(image, (x, y), 2)
  return np.asarray(image) == 2
