"""End-point error of point tracks: generated points against the same points of the real clip."""

import numpy as np

from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.frames import check_frames
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.per_sample import PerSample

POINTS = 64  # Per object.


class TrackError(PerSample):
  """Mean distance in pixels of tracked points of the objects."""

  name, title, higher_is_better = 'track_error', 'track error (px)', False

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'Distance in pixels between points of the objects tracked'
      f' ({options.networks.label("cotracker", self.name)}) through the generated video and through'
      f' the clip, up to {POINTS} points per object of frame 0, mean over the points and frames'
      ' after 0 that are visible in both; clips with an edited trajectory are left out.'
    )

  def value(self, sample: Sample) -> float:
    check_frames(sample, self.name, 2)
    if not np.array_equal(sample.target, sample.clip.ids):
      return float('nan')  # The clip does not show the motion that was asked for.
    points = object_points(sample.target[0], POINTS)
    if not len(points):
      return float('nan')
    track = self._options.networks.get('cotracker', self.name)
    (a, seen_a), (b, seen_b) = (track(v, points) for v in (sample.video, sample.clip.video))
    error, both = np.linalg.norm(a - b, axis=-1)[1:], (seen_a & seen_b)[1:]
    return float(error[both].mean()) if both.any() else float('nan')


def object_points(ids: np.ndarray, most: int) -> np.ndarray:
  """Return points of every object of a label map, spread evenly over its pixels in row order.

  Args:
    ids: uint8 [H, W].
    most: largest number of points per object.

  Returns:
    float32 [N, 2], (x, y) in pixels.
  """
  points = [np.zeros((0, 2), np.float32)]
  for obj in np.unique(ids[ids > 0]):
    pixels = np.argwhere(ids == obj)[:, ::-1]
    chosen = np.unique(np.rint(np.linspace(0, len(pixels) - 1, most)).astype(int))
    points.append(pixels[chosen].astype(np.float32))
  return np.concatenate(points)
