"""Aesthetic scores of images: a trained linear head on CLIP image embeddings.

The head is a sequence of linear layers without activations, `layers.N.weight` and `layers.N.bias`,
as in the LAION predictor (improved-aesthetic-predictor). Convert its checkpoint to safetensors
once. Embeddings are normalized to length 1.
"""

import re
from collections.abc import Sequence

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed


class ClipScore:
  """Aesthetic scores of images."""

  def __init__(self, weights: ModelSource, head: str):
    check_installed()
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    self._batch = weights.batch
    self._processor = weights.load_part(AutoImageProcessor)
    self._model = weights.load(CLIPVisionModelWithProjection)
    self._weight, self._bias = read_head(head)
    width = self._model.config.projection_dim
    if len(self._weight) != width:
      raise InputError(
        f'{head}: needs embeddings of width {len(self._weight)}, but those of {weights.model} have'
        f' {width}; give the head of this model'
      )

  def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return scores float [n] of n images uint8 [H, W, 3]."""
    import torch

    scores = []
    for start in range(0, len(pictures), self._batch):
      inputs = self._processor(list(pictures[start : start + self._batch]), return_tensors='pt')
      pixels = inputs['pixel_values'].to(self._model.device, self._model.dtype)
      with torch.inference_mode():
        embeddings = self._model(pixel_values=pixels).image_embeds.float().cpu().numpy()
      embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
      scores.append(embeddings @ self._weight + self._bias)
    return np.concatenate(scores)


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
