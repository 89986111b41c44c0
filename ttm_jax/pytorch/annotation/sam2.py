"""Masks of objects in a clip from their boxes or masks in frame 0, by SAM 2.

There are two backends: the package `sam2`, from Meta's repository or from PyPI, and
`Sam2VideoModel` of transformers. `auto` selects the first one that is installed and can read the
given weights, and prints its name. Hub ids require transformers.
"""

import importlib
import sys
from pathlib import Path
from typing import Protocol

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed, looks_local
from ttm_jax.pytorch.annotation.sam2_package import PackageTracker

BACKENDS = {'sam2': 'sam2.build_sam', 'transformers': 'transformers'}  # The module that each needs.


class Tracker(Protocol):
  """Tracks objects from frame 0 on."""

  def __call__(self, video: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Args:
      video: uint8 [T, H, W, 3].
      boxes: float [n, 4] (x0, y0, x1, y1), in pixels of frame 0.

    Returns:
      Mask logits float32 [T, n, H, W], above 0 inside the object.
    """
    ...

  def from_masks(self, video: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Args:
      video: uint8 [T, H, W, 3].
      masks: bool [n, H, W], the objects in frame 0.

    Returns:
      Mask logits float32 [T, n, H, W], above 0 inside the object.
    """
    ...


class TransformersTracker:
  """`Tracker` with `Sam2VideoModel` of transformers."""

  def __init__(self, weights: ModelSource):
    check_installed()
    from transformers import Sam2VideoModel

    self._model = weights.load(Sam2VideoModel)

  def __call__(self, video: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    from ttm_jax.pytorch.tracking import track

    return track(self._model, video, boxes)

  def from_masks(self, video: np.ndarray, masks: np.ndarray) -> np.ndarray:
    from ttm_jax.pytorch.tracking import track_masks

    return track_masks(self._model, video, masks)


def tracker(weights: ModelSource, backend: str = 'auto') -> Tracker:
  """Load SAM 2 with a backend of BACKENDS, or with the first usable one for `auto`.

  Args:
    weights: the model; for the package `sam2` with a .yaml configuration, see `sam2_package`.
    backend: the backend.

  Raises:
    InputError: if the backend is unknown or not installed, or the weights cannot be loaded.
  """
  if backend == 'auto':
    backend = next((name for name in BACKENDS if _usable(name, weights)), '')
    if not backend:
      raise InputError("SAM 2 needs transformers or sam2: pip install 'ttm_jax[data]'")
    print(f'SAM 2 by the package {backend}', file=sys.stderr)
  if backend not in BACKENDS:
    raise InputError(f'--sam_backend {backend}: choose auto, {", ".join(BACKENDS)}')
  return TransformersTracker(weights) if backend == 'transformers' else PackageTracker(weights)


def _usable(backend: str, weights: ModelSource) -> bool:
  """Return whether a backend is installed and can read the given weights."""
  if backend == 'sam2' and (
    not looks_local(weights.model) or (Path(weights.model) / 'config.json').is_file()
  ):
    return False
  try:
    importlib.import_module(BACKENDS[backend])
  except (ImportError, RuntimeError):  # RuntimeError: torchvision built for another PyTorch.
    return False
  return True
