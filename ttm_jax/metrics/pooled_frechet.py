"""Fréchet distance of pooled pixels: a distance of distributions that needs no network.

The features are fixed and simple, so that small experiments compare distributions without weights:
colors, their places and how these change in time, but no textures or shapes.
"""

import numpy as np

from ttm_jax.metrics.distributions import DistributionMetric
from ttm_jax.metrics.frechet import frechet_distance

CELLS = 4  # Along time, height and width.


class PooledFrechet(DistributionMetric):
  """Fréchet distance of mean colors in 4 x 4 x 4 cells of the clip."""

  name, title = 'pooled_frechet', 'Fréchet distance (pooled pixels)'
  least = CELLS**3 * 3
  least_frames = CELLS
  protocol = (
    f'Fréchet distance of pooled pixels: mean colors, 0..1, of {CELLS} x {CELLS} x {CELLS} cells'
    ' along time, height and width; unbiased covariances.'
  )

  def features(self, videos: np.ndarray) -> np.ndarray:
    pooled = videos.astype(np.float64) / 255
    for axis in (1, 2, 3):
      cells = np.array_split(pooled, CELLS, axis)
      pooled = np.stack([cell.mean(axis) for cell in cells], axis)
    return pooled.reshape(len(videos), -1)

  def distance(self, generated: np.ndarray, real: np.ndarray) -> float:
    return frechet_distance(generated, real)
