"""Segment an object of an image from clicks and a box, by SAM 2 (transformers)."""

import numpy as np
import torch

from .pretrained import load_model
from .tracking import segment_clicks


class ClickSegmenter:
  """SAM 2 for clicks; the model is loaded with the first one."""

  def __init__(self, sam: str, device: str = 'auto', offline: bool = False):
    """Remember what to load.

    Args:
      sam: SAM 2, hub id or folder.
      device: PyTorch device; 'auto' for 'cuda' if available, else 'cpu'.
      offline: do not use the network.
    """
    self._sam, self._offline = sam, offline
    cuda = torch.cuda.is_available()
    self._device = ('cuda' if cuda else 'cpu') if device == 'auto' else device
    self._model = None

  def __call__(
    self, picture: np.ndarray, points: np.ndarray, inside: np.ndarray, box: np.ndarray | None
  ) -> np.ndarray:
    """Return the mask of the object, bool [H, W].

    Args:
      picture: uint8 [H, W, 3].
      points: clicked points (x, y) in pixels, float [n, 2].
      inside: whether each point is on the object, bool [n].
      box: box around the object (x0, y0, x1, y1) in pixels, float [4], or None.

    Raises:
      InputError: if the model cannot be loaded.
    """
    if self._model is None:
      from transformers import Sam2VideoModel

      self._model = load_model(Sam2VideoModel, self._sam, self._offline).to(self._device)
    return segment_clicks(self._model, picture, points, inside, box) > 0
