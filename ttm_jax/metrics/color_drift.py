"""Change of the mean color of each object since frame 0, without a network."""

import numpy as np

from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.per_sample import PerSample


class ColorDrift(PerSample):
  """Distance of an object's mean color to that of frame 0."""

  name, title, higher_is_better = 'color_drift', 'color drift (levels)', False
  protocol = (
    "Euclidean distance of an object's mean RGB color, in levels of 0..255, from that of frame 0,"
    ' inside the target trajectory; mean over the later frames that show it and over the objects of'
    ' a clip that frame 0 shows.'
  )

  def value(self, sample: Sample) -> float:
    target = sample.target
    values = [_drift(sample.video, target == obj) for obj in np.unique(target[0][target[0] > 0])]
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else float('nan')


def _drift(video: np.ndarray, masks: np.ndarray) -> float:
  """Return the mean distance; NaN if no later frame shows the object.

  Args:
    video: uint8 [T, H, W, 3].
    masks: bool [T, H, W], not empty in frame 0.
  """
  pairs = zip(video, masks, strict=True)
  first, *later = [frame[mask].mean(0) for frame, mask in pairs if mask.any()]
  return float(np.mean(np.linalg.norm(np.array(later) - first, axis=1))) if later else float('nan')
