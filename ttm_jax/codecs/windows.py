"""Positions and blending weights of overlapping tiles; NumPy only, shared with the PyTorch code."""

import numpy as np


def windows(size: int, tile: int, overlap: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the start of each of N tiles along one axis, and the weights of their outputs.

  Args:
    size: latents along the axis.
    tile: latents per tile, at most `size`.
    overlap: latents that neighboring tiles share.
    factor: outputs per latent.

  Returns:
    Starts, int [N], in latents; and weights, float64 [N, tile * factor]. The weights are linear
    ramps over the overlaps. At each output, the weights of all tiles that cover it sum to one.
  """
  step = max(tile - overlap, 1)  # The overlap may exceed a tile clipped to the whole size.
  count = 1 - (size - tile) // -step
  starts = np.minimum(np.arange(count) * step, size - tile)
  i = np.arange(tile * factor)
  ramp = np.minimum(i + 1, tile * factor - i) / (overlap * factor + 1)
  weights = np.tile(np.minimum(ramp, 1), (count, 1))
  covered = starts[:, None] * factor + i
  total = np.zeros(size * factor)
  np.add.at(total, covered, weights)
  return starts, weights / total[covered]
