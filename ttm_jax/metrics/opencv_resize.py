"""Bilinear resizing of uint8 images with the result of OpenCV, to the bit, without OpenCV.

`cv2.resize` computes with integers: weights in 1/2048, rounded after each axis. It does not
antialias. Half the size in both directions is the mean of 2 x 2 pixels.
"""

import numpy as np


def resize_bilinear(image: np.ndarray, side: int) -> np.ndarray:
  """Return `cv2.resize(image, (side, side))`.

  Args:
    image: uint8 [H, W, 3].
    side: height and width of the result in pixels.

  Returns:
    uint8 [side, side, 3].
  """
  pixels = image.astype(np.int64)
  if image.shape[:2] == (2 * side, 2 * side):
    four = pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2]
    return ((four + 2) >> 2).astype(np.uint8)
  (top, bottom), (above, below) = _taps(image.shape[0], side)
  (left, right), (before, after) = _taps(image.shape[1], side)
  lines = (pixels[:, left] * before[:, None] + pixels[:, right] * after[:, None]) >> 4
  upper, lower = (
    lines[rows] * weights[:, None, None] >> 16 for rows, weights in ((top, above), (bottom, below))
  )
  return ((upper + lower + 2) >> 2).astype(np.uint8)


def _taps(size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the two input positions of each output position and their weights, int [2, side]."""
  place = ((np.arange(side) + 0.5) * (size / side) - 0.5).astype(np.float32)
  low = np.floor(place)
  fraction = place - low
  weights = np.rint(np.stack([np.float32(1) - fraction, fraction]) * np.float32(2048))
  positions = np.stack([low, low + 1]).astype(int).clip(0, size - 1)
  return positions, weights.astype(np.int64)
