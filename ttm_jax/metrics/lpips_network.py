"""LPIPS between the frames of two videos."""

import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax.codecs.perceptual import Perceptual, load_perceptual
from ttm_jax.pytorch.annotation.model_source import ModelSource


class FrameDistances:
  """The distance of `codecs.perceptual`, by JAX on its default device.

  Attributes:
    least: smallest height and width of a frame in pixels.
  """

  def __init__(self, source: ModelSource):
    self._perceptual, self._batch = load_perceptual(source.model), source.batch
    self.least = self._perceptual.least

  def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return float [T] of two videos uint8 [T, H, W, 3]."""
    found = []
    for start in range(0, len(a), self._batch):
      parts = [video[start : start + self._batch] for video in (a, b)]
      missing = self._batch - len(parts[0])  # A full batch, so that it is compiled once per size.
      parts = [np.pad(part, ((0, missing), *[(0, 0)] * 3)) for part in parts]
      with jax.default_matmul_precision('highest'):
        found.append(np.asarray(_distance(self._perceptual, *parts))[: self._batch - missing])
    return np.concatenate(found)


@jax.jit
def _distance(perceptual: Perceptual, a: jax.Array, b: jax.Array) -> jax.Array:
  scaled = (video.astype(jnp.float32) / 127.5 - 1 for video in (a, b))
  return perceptual(*scaled)
