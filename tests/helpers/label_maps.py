"""Label maps written as rows of digits."""

import numpy as np


def frame(*rows: str) -> np.ndarray:
  """Return a label map [H, W] from rows of digits; a dot is the background."""
  return np.array([[int(c) for c in row.replace('.', '0')] for row in rows], np.uint8)


def clip(*frames: np.ndarray) -> np.ndarray:
  return np.stack(frames)
