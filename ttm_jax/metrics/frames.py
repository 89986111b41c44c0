"""Which frames of a clip a metric looks at."""

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.metrics.base import Sample


def evenly(count: int, wanted: int) -> np.ndarray:
  """Return increasing frame numbers int [wanted], evenly spaced from 0 to count - 1.

  Numbers repeat if the clip has fewer frames than wanted.
  """
  return np.rint(np.linspace(0, count - 1, wanted)).astype(int)


def check_frames(sample: Sample, metric: str, least: int) -> None:
  """Raise InputError if a clip has fewer than `least` frames."""
  if len(sample.video) < least:
    raise InputError(
      f'clip {sample.clip.key}: has {len(sample.video)} frames, but {metric} needs at least'
      f' {least}; leave out the metric, or score longer clips'
    )
