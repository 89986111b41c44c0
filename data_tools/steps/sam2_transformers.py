"""SAM 2 tracker based on `Sam2VideoModel` of transformers."""

import numpy as np

from data_tools.steps.weights import ModelSource, check_installed


class TransformersTracker:
  """Implementation of `segment.Tracker` with transformers."""

  def __init__(self, weights: ModelSource):
    check_installed()
    from transformers import Sam2VideoModel

    from ttm_jax.pytorch.tracking import track

    self._model, self._track = weights.load(Sam2VideoModel), track

  def __call__(self, video: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return self._track(self._model, video, boxes)
