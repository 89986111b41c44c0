"""Masks of the objects in a generated video: tracked by SAM 2 from their masks in frame 0."""

import hashlib
import zlib

import numpy as np

from ttm_jax.pytorch.annotation.sam2 import Tracker
from ttm_jax.trajectory import from_logits, relabel


class VideoMasks:
  """Label maps of videos, each tracked once: several metrics look at the same masks."""

  def __init__(self, tracker: Tracker):
    self._tracker = tracker
    self._known: dict[bytes, bytes] = {}  # Compressed: a label map has a few kB.

  def __call__(self, video: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the label maps of a video, uint8 [T, H, W].

    A pixel belongs to the object of the highest score. Frame 0 is as given.

    Args:
      video: uint8 [T, H, W, 3].
      first: uint8 [H, W], the label map of frame 0. Objects that are not in it are not tracked.
    """
    key = hashlib.sha256(np.ascontiguousarray(video).data)
    key.update(np.ascontiguousarray(first).data)
    name = key.digest() + str(video.shape).encode()
    if name not in self._known:
      self._known[name] = zlib.compress(self._tracked(video, first).tobytes(), 1)
    found = np.frombuffer(zlib.decompress(self._known[name]), np.uint8)
    return found.reshape(video.shape[:3])

  def _tracked(self, video: np.ndarray, first: np.ndarray) -> np.ndarray:
    objects = np.unique(first[first > 0]).tolist()
    if not objects:
      return np.zeros(video.shape[:3], np.uint8)
    logits = self._tracker.from_masks(video, np.stack([first == obj for obj in objects]))
    ids = relabel(from_logits(logits), dict(enumerate(objects, 1)))
    ids[0] = first
    return ids
