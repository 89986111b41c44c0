"""Aesthetic scores of images: a trained linear head on CLIP image embeddings.

The head is a sequence of linear layers without activations, `layers.N.weight` and `layers.N.bias`,
as in the LAION predictor (improved-aesthetic-predictor). Convert its checkpoint to safetensors
once. Embeddings are normalized to length 1.
"""

import re
from collections.abc import Sequence

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.clip_embeddings import ClipImages
from ttm_jax.pytorch.annotation.model_source import ModelSource


class ClipScore:
  """Aesthetic scores of images."""

  def __init__(self, weights: ModelSource, head: str):
    self._embed = ClipImages(weights)
    self._weight, self._bias = read_head(head)
    if len(self._weight) != self._embed.dim:
      raise InputError(
        f'{head}: needs embeddings of width {len(self._weight)}, but those of {weights.model} have'
        f' {self._embed.dim}; give the head of this model'
      )

  def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return scores float [n] of n images uint8 [H, W, 3]."""
    return self._embed(pictures) @ self._weight + self._bias


def read_head(path: str) -> tuple[np.ndarray, float]:
  """Collapse the linear layers of a head into one weight float64 [d] and one bias.

  Raises:
    InputError: if the file cannot be read, or its layers do not compose to one score.
  """
  import safetensors.numpy

  try:
    tensors = safetensors.numpy.load_file(path)
  except Exception as error:  # safetensors raises several exception types for corrupt files.
    raise InputError(
      f'{path}: not a valid safetensors file ({error}); convert the head again'
    ) from error
  layers = sorted(
    (int(found[1]), name) for name in tensors if (found := re.fullmatch(r'.*?(\d+)\.weight', name))
  )
  if not layers:
    raise InputError(f'{path}: contains no layers.N.weight; convert the head of the predictor')
  try:
    matrix, vector = np.eye(tensors[layers[0][1]].shape[1]), 0.0
    for _, name in layers:
      weight = tensors[name].astype(np.float64)
      bias = tensors[name.removesuffix('weight') + 'bias'].astype(np.float64)
      matrix, vector = weight @ matrix, weight @ np.broadcast_to(vector, weight.shape[1]) + bias
    (row,), (constant,) = matrix, np.atleast_1d(vector)
  except (ValueError, KeyError) as error:
    raise InputError(
      f'{path}: its layers do not compose to one score ({error}); give another head'
    ) from error
  return row, float(constant)
