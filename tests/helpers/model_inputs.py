"""Sources and inputs of the tiny pretrained models."""

import numpy as np

from ttm_jax.pytorch.annotation.model_source import ModelSource


def weights(path, **options):
  """Return the source of a model folder, on the CPU and without a network."""
  return ModelSource(str(path), device='cpu', offline=True, **options)


def video(frames=3, size=(40, 60), seed=0):
  """Return a random video, uint8 [T, H, W, 3]."""
  return np.random.default_rng(seed).integers(0, 255, (frames, *size, 3), np.uint8)
