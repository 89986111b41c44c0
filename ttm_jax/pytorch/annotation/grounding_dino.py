"""Boxes of nouns in images, by Grounding DINO of transformers.

Each noun is a separate query, so boxes need not be assigned to one of several labels by their text.
"""

from collections.abc import Sequence

import numpy as np

from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed

THRESHOLD = 0.25  # Default minimum score of a box.

Found = tuple[np.ndarray, np.ndarray]


class GroundingDino:
  """Boxes and scores of nouns in images."""

  def __init__(self, weights: ModelSource, threshold: float = THRESHOLD):
    check_installed()
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    from ttm_jax.pytorch.detection import detect

    self._batch, self._threshold = weights.batch, threshold
    self._processor = weights.load_part(AutoProcessor)
    self._model, self._detect = weights.load(AutoModelForZeroShotObjectDetection), detect

  def __call__(self, pictures: Sequence[np.ndarray], nouns: Sequence[str]) -> list[Found]:
    """Detect noun i in image i.

    Args:
      pictures: images uint8 [H, W, 3].
      nouns: noun phrases, one per image.

    Returns:
      For each image, boxes float32 [n, 4] (x0, y0, x1, y1), in pixels and clipped to the image, and
      scores [n].
    """
    found: list[Found] = []
    for start in range(0, len(nouns), self._batch):
      part = slice(start, start + self._batch)
      results = self._detect(
        self._model, self._processor, pictures[part], nouns[part], self._threshold
      )
      found += [(result.boxes, result.scores) for result in results]
    return found
