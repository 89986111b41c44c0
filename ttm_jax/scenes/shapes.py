"""Render synthetic scenes: shapes as signed distance functions, textures, backgrounds, colors.

Objects are saturated (HSV saturation >= 0.75) and backgrounds are muted (<= 0.3), with every
texture. Objects in generated videos can therefore be segmented by color.
"""

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray

# All channels are <= 222, so that textures, which brighten by up to 14 %, do not clip.
COLORS = {
  'red': (214, 34, 40),
  'orange': (222, 122, 16),
  'yellow': (220, 206, 24),
  'green': (32, 164, 54),
  'cyan': (24, 190, 204),
  'blue': (36, 66, 216),
  'purple': (134, 34, 190),
  'pink': (222, 52, 150),
}

BACKGROUND_COLORS = {
  'grey': (134, 134, 134),
  'beige': (178, 166, 140),
  'brown': (118, 98, 86),
  'sage': (128, 148, 124),
  'slate': (104, 120, 134),
  'mauve': (150, 126, 146),
}


def _half_plane(x: Array, y: Array, angle: float, distance: float) -> Array:
  """Return the signed distance to a line, positive on the side that its normal points to.

  Args:
    x: x coordinates.
    y: y coordinates.
    angle: Direction of the normal in radians.
    distance: Distance of the line from the origin.
  """
  return x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle)) - np.float32(distance)


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
  return np.maximum(np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height))


def _disk(x: Array, y: Array, radius: float) -> Array:
  return np.sqrt(x * x + y * y) - np.float32(radius)


def _triangle(x: Array, y: Array) -> Array:
  sides = [_half_plane(x, y, math.pi * (1 / 2 + 2 * k / 3), 0.62) for k in range(3)]
  return np.maximum(np.maximum(sides[0], sides[1]), sides[2])


def _diamond(x: Array, y: Array) -> Array:
  return _half_plane(np.abs(x), np.abs(y), math.atan2(0.74, 1.2), 0.74 * 1.2 / 1.41)


def _hexagon(x: Array, y: Array) -> Array:
  x, y = np.abs(x), np.abs(y)
  return np.maximum(_half_plane(x, y, math.pi / 6, 0.9), _half_plane(x, y, math.pi / 2, 0.9))


def _cross(x: Array, y: Array) -> Array:
  return np.minimum(_box(x, y, 1.0, 0.36), _box(x, y, 0.36, 1.0))


def _ring(x: Array, y: Array) -> Array:
  return np.abs(_disk(x, y, 0.74)) - np.float32(0.3)


def _crescent(x: Array, y: Array) -> Array:
  return np.maximum(_disk(x - np.float32(0.18), y, 1.06), -_disk(x - np.float32(0.74), y, 0.82))


def _star(x: Array, y: Array) -> Array:
  """Return the distance to a five-pointed star, reduced by symmetry to one edge of half a point."""
  outer, inner, fold = 1.2, 0.58, math.pi / 5
  angle = np.arctan2(np.abs(x), -y)
  angle = np.abs((angle + np.float32(fold)) % np.float32(2 * fold) - np.float32(fold))
  radius = np.sqrt(x * x + y * y)
  along, across = radius * np.cos(angle), radius * np.sin(angle)
  edge = (inner * math.cos(fold) - outer, inner * math.sin(fold))
  return _half_plane(along - np.float32(outer), across, math.atan2(-edge[0], edge[1]), 0.0)


def _heart(x: Array, y: Array) -> Array:
  """Return the distance to a heart: a square on its corner, and a disk on each upper edge."""
  side, root = 0.58, np.float32(math.sqrt(0.5))
  x, y = np.abs(x), y - np.float32(0.12)
  disk = _disk(x - side * root, y + side * root, side)
  # The square ends at its upper edges, on which the disks are centered.
  return np.minimum(_box((x + y) * root, (x - y) * root, side, side), disk)


# Signed distance functions, negative inside, in units of the radius. x to the right, y down.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
  'circle': lambda x, y: _disk(x, y, 1.0),
  'square': lambda x, y: _box(x, y, 0.86, 0.86),
  'triangle': _triangle,
  'star': _star,
  'heart': _heart,
  'ring': _ring,
  'cross': _cross,
  'diamond': _diamond,
  'hexagon': _hexagon,
  'crescent': _crescent,
}
REACH = 1.25  # Largest extent of a shape from its center, in radii.
ROUND = frozenset({'circle', 'ring'})  # Shapes whose rotation is invisible.

TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
  'shade': lambda x, y: np.clip(0.1 * (x - y), -0.14, 0.14),
  'stripes': lambda x, y: 0.12 * np.sin(7 * x + y),
  'dots': lambda x, y: 0.14 * np.sin(6 * x) * np.sin(6 * y),
}


def coverage_and_light(
  noun: str, texture: str, size: tuple[int, int], center: Array, radius: Array, angle: Array
) -> tuple[tuple[slice, slice], Array, Array]:
  """Rasterize one object over time.

  Args:
    noun: A key of SHAPES.
    texture: A key of TEXTURES.
    size: (H, W) of the frame in pixels.
    center: Float [T, 2], (x, y) in pixels; pixel (0, 0) covers [0, 1) x [0, 1).
    radius: Float [T], in pixels.
    angle: Float [T], in radians, clockwise on the screen.

  Returns:
    The slices of rows and columns that contain the object in all frames; its coverage of each pixel
    there, float32 [T, h, w] in [0, 1]; and the brightness factor of its color, float32 [T, h, w]
    in 1 +- 0.14.
  """
  reach = REACH * radius[:, None] + 1
  low = np.floor((center - reach).min(0)).astype(int)
  high = np.ceil((center + reach).max(0)).astype(int)
  columns, rows = (slice(max(low[i], 0), max(min(high[i], size[1 - i]), 0)) for i in range(2))
  x = np.arange(columns.start, columns.stop) + 0.5
  y = np.arange(rows.start, rows.stop) + 0.5
  # Object coordinates. Rotation is separable: terms of x are [T, w], terms of y are [T, h].
  x, y = (x - center[:, :1]) / radius[:, None], (y - center[:, 1:]) / radius[:, None]
  cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
  u = (cos * x).astype(np.float32)[:, None] + (sin * y).astype(np.float32)[..., None]
  v = (-sin * x).astype(np.float32)[:, None] + (cos * y).astype(np.float32)[..., None]
  distance = SHAPES[noun](u, v) * radius.astype(np.float32)[:, None, None]
  coverage = np.clip(0.5 - distance, 0, 1)
  return (rows, columns), coverage, 1 + TEXTURES[texture](u, v)


def _gradient(rng: np.random.Generator, x: Array, y: Array) -> Array:
  angle = rng.uniform(0, 2 * math.pi)
  return (x * math.cos(angle) + y * math.sin(angle)) * 0.9


def _stripes(rng: np.random.Generator, x: Array, y: Array) -> Array:
  angle, waves = rng.uniform(0, math.pi), rng.uniform(16, 26)
  return np.sin(waves * (x * math.cos(angle) + y * math.sin(angle)))


def _checks(rng: np.random.Generator, x: Array, y: Array) -> Array:
  waves, shift = rng.uniform(11, 17), rng.uniform(0, 6, size=2)
  return np.clip(3 * np.sin(waves * x + shift[0]) * np.sin(waves * y + shift[1]), -1, 1)


def _clouds(rng: np.random.Generator, x: Array, y: Array) -> Array:
  """Return value noise of three octaves: random values on coarse grids, smoothly interpolated."""
  total = np.zeros(np.broadcast_shapes(x.shape, y.shape))
  for cells in (3, 6, 12):
    heights = rng.normal(size=(cells + 1, cells + 1)) / math.sqrt(cells)
    total += _interpolation(y[:, 0], cells) @ heights @ _interpolation(x[0], cells).T
  return np.clip(1.6 * total, -1.2, 1.2)


def _interpolation(x: Array, cells: int) -> Array:
  """Return interpolation weights [N, cells + 1] of grid points that span the N positions `x`."""
  place = (x - x[0]) / (x[-1] - x[0]) * cells
  near = np.clip(1 - np.abs(place[:, None] - np.arange(cells + 1)), 0, 1)
  return near * near * (3 - 2 * near)


BACKGROUNDS: dict[str, Callable[[np.random.Generator, Array, Array], Array]] = {
  'plain': _gradient,
  'striped': _stripes,
  'checkered': _checks,
  'cloudy': _clouds,
}


def background(rng: np.random.Generator, color: str, kind: str, size: tuple[int, int]) -> Array:
  """Draw a static background.

  Args:
    rng: Random generator for direction, frequency and contrast.
    color: A key of BACKGROUND_COLORS.
    kind: A key of BACKGROUNDS.
    size: (H, W) in pixels.

  Returns:
    float32 [H, W, 3] in 0..255.
  """
  height, width = size
  unit = min(size)
  x = (np.arange(width) + 0.5 - width / 2)[None, :] / unit
  y = (np.arange(height) + 0.5 - height / 2)[:, None] / unit
  light = rng.uniform(0.85, 1.1) * (1 + rng.uniform(0.12, 0.22) * BACKGROUNDS[kind](rng, x, y))
  return (light[..., None] * BACKGROUND_COLORS[color]).astype(np.float32)
