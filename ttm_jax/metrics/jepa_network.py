"""Features of videos by V-JEPA 2 (Assran et al. 2025), from transformers."""

from typing import Any

import numpy as np

from ttm_jax.metrics.frames import evenly
from ttm_jax.metrics.torch_calls import channels_first, exactly, normalized
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed


class VideoJepa:
  """Pooled features of a V-JEPA 2 model that was fine-tuned for classification."""

  def __init__(self, source: ModelSource):
    check_installed()
    from transformers import VJEPA2ForVideoClassification

    self._model = source.load(VJEPA2ForVideoClassification)

  def __call__(self, videos: np.ndarray) -> np.ndarray:
    """Return the output of the pooler, float64 [B, D], of videos uint8 [B, T, H, W, 3]."""
    with exactly():
      tokens = self._model.vjepa2(self.prepared(videos), skip_predictor=True).last_hidden_state
      return self._model.pooler(tokens).double().cpu().numpy()

  def prepared(self, videos: np.ndarray) -> Any:
    """Return the network's input, a tensor float32 [B, F, 3, S, S].

    F frames are taken evenly, and resized to S x S without a crop, by bilinear interpolation with
    antialiasing. F and S are those of the model's configuration.
    """
    from torch.nn.functional import interpolate

    config = self._model.config
    videos = videos[:, evenly(videos.shape[1], config.frames_per_clip)]
    pixels = channels_first(videos).to(self._model.device).float() / 255
    size = (config.crop_size, config.crop_size)
    small = interpolate(pixels.flatten(0, 1), size, mode='bilinear', antialias=True)
    return normalized(small).unflatten(0, videos.shape[:2])
