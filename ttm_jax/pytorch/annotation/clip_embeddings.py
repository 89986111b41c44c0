"""CLIP embeddings of images and texts, normalized to length 1."""

import functools
from collections.abc import Sequence

import numpy as np

from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed
from ttm_jax.pytorch.pretrained import check_texts


class Clip:
  """Both encoders of a CLIP model, each loaded when it is first used.

  The cosine similarity of two of its embeddings is their dot product.
  """

  def __init__(self, weights: ModelSource):
    self._weights = weights

  @functools.cached_property
  def images(self) -> 'ClipImages':
    """The encoder of images."""
    return ClipImages(self._weights)

  @functools.cached_property
  def texts(self) -> 'ClipTexts':
    """The encoder of texts."""
    return ClipTexts(self._weights)


class ClipImages:
  """CLIP embeddings of images, preprocessed as the model's own image processor does.

  Attributes:
    dim: width of the embeddings.
  """

  def __init__(self, weights: ModelSource):
    check_installed()
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    self._batch = weights.batch
    self._processor = weights.load_part(AutoImageProcessor)
    self._model = weights.load(CLIPVisionModelWithProjection)
    self.dim: int = self._model.config.projection_dim

  def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return unit embeddings float32 [n, dim] of n images uint8 [H, W, 3]."""
    import torch

    found = [np.zeros((0, self.dim), np.float32)]
    for start in range(0, len(pictures), self._batch):
      inputs = self._processor(list(pictures[start : start + self._batch]), return_tensors='pt')
      pixels = inputs['pixel_values'].to(self._model.device, self._model.dtype)
      with torch.inference_mode():
        found.append(self._model(pixel_values=pixels).image_embeds.float().cpu().numpy())
    return _unit(np.concatenate(found))


class ClipTexts:
  """CLIP embeddings of texts; a text that is too long is truncated.

  Attributes:
    dim: width of the embeddings.
  """

  def __init__(self, weights: ModelSource):
    check_installed()
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    self._batch = weights.batch
    self._tokenizer = weights.load_part(AutoTokenizer)
    self._model = weights.load(CLIPTextModelWithProjection)
    self.dim: int = self._model.config.projection_dim
    self._longest = self._model.config.max_position_embeddings

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Return unit embeddings float32 [n, dim] of n texts.

    Raises:
      InputError: if a text is not valid Unicode.
    """
    import torch

    check_texts(texts)
    found = [np.zeros((0, self.dim), np.float32)]
    for start in range(0, len(texts), self._batch):
      inputs = self._tokenizer(
        list(texts[start : start + self._batch]),
        padding=True,
        truncation=True,
        max_length=self._longest,
        return_tensors='pt',
      ).to(self._model.device)
      with torch.inference_mode():
        found.append(self._model(**inputs).text_embeds.float().cpu().numpy())
    return _unit(np.concatenate(found))


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
