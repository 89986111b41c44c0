"""Labels of pixels by their colors, where a codec has blurred the edges between labels."""

import itertools

import numpy as np

SURE = 75.0
"""A pixel within this L2 distance in RGB of a color is taken for that color, not for a mixture."""
REACH = 2
"""Pixels, in rows and columns, over which an edge is blurred."""


def labels_of(pixels: np.ndarray, colors: np.ndarray) -> np.ndarray:
  """Return the label of each pixel: the nearest color, or the larger part of a mixture of two.

  At the edge of two labels a codec mixes their colors, and the mixture may be nearest to a third
  one: an edge between red and white is pink, which is nearest to orange. So a pixel that is far
  from all colors is compared with the mixtures of all pairs of colors that it is within `REACH` of.
  If a mixture is nearer than any color, the pixel gets the label with the larger share in it.

  Args:
    pixels: uint8 [T, H, W, 3].
    colors: uint8 [n, 3], n <= 255.

  Returns:
    uint8 [T, H, W], indices of `colors`. The first one if several are equally near.
  """
  # Frame by frame, what is computed stays in the cache: five times as fast at 512 x 512.
  labels = np.empty(pixels.shape[:-1], np.uint8)
  for found, frame in zip(labels, pixels, strict=True):
    found[:] = _labels_of_frame(frame, colors)
  return labels


def _labels_of_frame(pixels: np.ndarray, colors: np.ndarray) -> np.ndarray:
  """Return the labels, uint8 [H, W], of one frame [H, W, 3]; see `labels_of`."""
  labels, distance = nearest_colors(pixels, colors)
  sure = distance <= SURE**2
  unsure = np.nonzero(~sure)
  mixed, best, chosen = pixels[unsure].astype(np.float32), distance[unsure], labels[unsure]
  near = [_within_reach(sure & (labels == index))[unsure] for index in range(len(colors))]
  ends = colors.astype(np.float32)
  for a, b in itertools.combinations(range(len(colors)), 2):
    both = np.flatnonzero(near[a] & near[b])
    way, from_a = ends[b] - ends[a], mixed[both] - ends[a]
    share = np.clip(from_a @ way / (way @ way), 0, 1)
    away = np.square(from_a - share[:, None] * way).sum(-1)
    nearer = away < best[both]
    best[both[nearer]] = away[nearer]
    chosen[both[nearer]] = np.where(share[nearer] < 0.5, a, b)
  labels[unsure] = chosen
  return labels


def nearest_colors(pixels: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the index of the nearest color of each pixel, and the squared L2 distance to it.

  Args:
    pixels: uint8 [..., 3].
    colors: uint8 [n, 3], n <= 255.

  Returns:
    uint8 [...], the first one if several are equally near; float32 [...].
  """
  # Integers below 2^24 are exact in float32, which uses BLAS. |p|^2, the same for all colors, is
  # added at the end.
  pixels, colors = pixels.astype(np.float32), colors.astype(np.float32)
  closest = np.zeros(pixels.shape[:-1], np.uint8)
  best = np.full(pixels.shape[:-1], np.inf, np.float32)
  for index, color in enumerate(colors):
    distance = pixels @ (-2 * color)
    distance += color @ color
    np.copyto(closest, index, where=distance < best)
    np.minimum(best, distance, out=best)
  return closest, best + np.square(pixels).sum(-1)


def _within_reach(mask: np.ndarray) -> np.ndarray:
  """Return whether a true pixel of [H, W] is at most `REACH` rows and columns away; bool."""
  for axis in (0, 1):
    lines = np.moveaxis(mask, axis, 0)
    found = lines.copy()
    for step in range(1, REACH + 1):
      found[step:] |= lines[:-step]
      found[:-step] |= lines[step:]
    mask = np.moveaxis(found, 0, axis)
  return mask
