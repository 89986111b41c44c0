"""Objects of a picture by the models of `ttm_jax.pytorch.annotation`."""

import sys

import numpy as np

from ttm_jax.pytorch.annotation.describe import Models, describe
from ttm_jax.studio.backends import Found


class AnnotationFinder:
  """A `backends.Finder`: language model, Grounding DINO and SAM 2."""

  def __init__(self, models: Models):
    """Check which models there are; each is loaded when it is used.

    Args:
      models: The models; at least SAM 2.

    Raises:
      InputError: If PyTorch or transformers are missing.
    """
    from ttm_jax.pytorch.clicks import ClickSegmenter

    self._models = models
    weights = models.weights
    self._click = ClickSegmenter(models.sam, weights.device, weights.offline)
    self.by_click = True
    self.by_text = bool(models.llm and models.detector)

  def named(self, picture: np.ndarray, caption: str, motion: str, max_objects: int) -> Found:
    found = describe(
      picture,
      caption,
      self._models,
      motion=motion,
      max_objects=max_objects,
      tell=lambda text: print(text, file=sys.stderr),
    )
    return Found(found.segmentation, found.names, found.prompts, found.motion)

  def clicked(
    self, picture: np.ndarray, points: np.ndarray, inside: np.ndarray, box: np.ndarray | None
  ) -> np.ndarray:
    return self._click(picture, points, inside, box)
