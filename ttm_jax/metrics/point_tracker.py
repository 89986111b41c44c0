"""Tracks of points through a video, by a TorchScript file.

CoTracker is published as Python code with a pickle, which are not run. A TorchScript file is called
as CoTracker 3 is: video float [1, T, 3, H, W] in 0..255 and queries float [1, N, 3] (frame, x, y),
to tracks float [1, T, N, 2] (x, y) and visibility [1, T, N], bool or a probability.
"""

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.metrics.torch_calls import channels_first, device_of, exactly, torchscript
from ttm_jax.pytorch.annotation.model_source import ModelSource


class PointTracker:
  """Tracks of the points of frame 0, by a TorchScript file."""

  def __init__(self, source: ModelSource):
    self._model = torchscript(source)

  def __call__(self, video: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions float64 [T, N, 2] (x, y) in pixels, and visibility bool [T, N].

    Args:
      video: uint8 [T, H, W, 3].
      points: float32 [N, 2], (x, y) in frame 0.

    Raises:
      InputError: if the file cannot be called in this way.
    """
    import torch

    with exactly():
      device = device_of(self._model)
      pixels = channels_first(video)[None].to(device).float()
      queries = torch.from_numpy(np.pad(points, ((0, 0), (1, 0))))[None].to(device)
      try:
        tracks, seen = self._model(pixels, queries)[:2]
        tracks, seen = tracks[0].double().cpu().numpy(), seen[0].cpu().numpy()
      except (RuntimeError, TypeError, ValueError) as error:
        said = str(error).strip().splitlines()[-1][:200]
        raise InputError(
          f'the TorchScript file of cotracker cannot be called with a video and queries ({said});'
          ' export the predictor of CoTracker 3 with this signature'
        ) from error
    seen = seen.reshape(tracks.shape[:2])
    return tracks, seen if seen.dtype == bool else seen > 0.5
