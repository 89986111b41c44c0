"""Run networks of PyTorch for metrics: TorchScript files, exact arithmetic, resized frames."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # Mean and standard deviation.


@contextlib.contextmanager
def exactly() -> Iterator[None]:
  """Compute without gradients and in full float32, so that GPUs give the numbers of CPUs.

  cuDNN otherwise rounds the inputs of convolutions to TF32, with 10 bits.
  """
  import torch

  with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
    yield


def torchscript(source: ModelSource) -> Any:
  """Load a TorchScript file in evaluation mode, on the device of the source.

  `torch.jit.load` reads a program of tensor operations. It unpickles no Python objects.

  Raises:
    InputError: if PyTorch is missing, or the file is not TorchScript.
  """
  check_installed()
  import torch

  try:
    return torch.jit.load(source.model, map_location=source.torch_device).eval()
  except (RuntimeError, ValueError) as error:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise InputError(
      f'{source.model}: is not a TorchScript file ({said}); a checkpoint of weights alone must be'
      ' exported with torch.jit.script or torch.jit.trace first'
    ) from error


def device_of(module: Any) -> Any:
  """Return the device of a module, from its parameters or buffers; the CPU if it has none."""
  import torch

  tensors = (*module.parameters(), *module.buffers())
  return tensors[0].device if tensors else torch.device('cpu')


def channels_first(video: np.ndarray) -> Any:
  """Return a video uint8 [..., H, W, 3] as a tensor uint8 [..., 3, H, W]."""
  import torch

  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(video, -1, -3)))


def normalized(pixels: Any, statistics: Any = IMAGENET) -> Any:
  """Return pixels [..., 3, H, W] in 0..1, less the mean and divided by the standard deviation."""
  import torch

  mean, std = (torch.tensor(s, device=pixels.device)[:, None, None] for s in statistics)
  return (pixels - mean) / std
