"""Where overlapping tiles lie, and how they are blended; NumPy alone, for PyTorch too."""

import numpy as np


def windows(size: int, tile: int, overlap: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
  """Where tiles start along one axis, and the weight of each of their outputs.

  Returns:
    int [N], in latents; and float64 [N, tile * factor]: ramps over the overlaps, and over all
    tiles that cover an output they sum to one.
  """
  step = max(tile - overlap, 1)  # The overlap may exceed a tile that was cut to the whole size.
  count = 1 - (size - tile) // -step
  starts = np.minimum(np.arange(count) * step, size - tile)
  i = np.arange(tile * factor)
  ramp = np.minimum(i + 1, tile * factor - i) / (overlap * factor + 1)
  weights = np.tile(np.minimum(ramp, 1), (count, 1))
  covered = starts[:, None] * factor + i
  total = np.zeros(size * factor)
  np.add.at(total, covered, weights)
  return starts, weights / total[covered]
