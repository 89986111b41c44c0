"""Optical flow between consecutive frames, by RAFT of torchvision.

The network is `raft_large`, which only this module needs. Convert its weights to safetensors once;
the paper's metrics use C_T_SKHT_V2.
"""

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed

# RAFT requires sides that are multiples of 8, and at least 128 for its correlation pyramid.
_MULTIPLE, _LEAST = 8, 128


class Raft:
  """Optical flow of videos by torchvision's `raft_large`, always computed in float32.

  torchvision builds RAFT's sampling grids in float32, so the network fails with weights of any
  other dtype. `weights.dtype` is therefore not used.
  """

  def __init__(self, weights: ModelSource):
    check_installed()
    try:
      from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError) as error:
      raise InputError(
        f'RAFT needs torchvision, which cannot be imported ({error}); install the build that'
        ' belongs to this torch, from the same index, or leave the step flow out'
      ) from error
    import safetensors.torch
    import torch

    self._model = raft_large(weights=None, progress=False)
    try:
      self._model.load_state_dict(safetensors.torch.load_file(weights.model))
    except Exception as error:  # safetensors and torch raise their own exception types.
      raise InputError(
        f'{weights.model}: not the weights of raft_large ({error}); convert them again'
      ) from error
    self._model.to(weights.torch_device, torch.float32).eval()
    self._batch = weights.batch

  def __call__(self, video: np.ndarray) -> np.ndarray:
    """Return the flow from each frame to the next.

    Args:
      video: uint8 [T, H, W, 3].

    Returns:
      float32 [T - 1, H, W, 2], (x, y) in pixels.
    """
    import torch

    device = next(self._model.parameters()).device
    height, width = video.shape[1:3]
    padded = np.pad(video, ((0, 0), *map(_padding, (height, width)), (0, 0)), mode='edge')
    flows = []
    for start in range(0, len(video) - 1, self._batch):
      part = torch.from_numpy(padded[start : start + self._batch + 1].transpose(0, 3, 1, 2).copy())
      frames = part.to(device, torch.float32) / 127.5 - 1
      with torch.inference_mode():
        flow = self._model(frames[:-1], frames[1:])[-1]
      flows.append(flow.cpu().numpy().transpose(0, 2, 3, 1)[:, :height, :width])
    return np.concatenate(flows) if flows else np.zeros((0, height, width, 2), np.float32)


def _padding(side: int) -> tuple[int, int]:
  wanted = max(_LEAST, -(-side // _MULTIPLE) * _MULTIPLE)
  return 0, wanted - side
