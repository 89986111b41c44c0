"""SAM 2 tracker based on the package `sam2`, from Meta's repository or from PyPI.

A model is a folder with one .safetensors file, the weights of the predictor, and one .yaml file,
its configuration (see `sam2_config`). The package's .pt checkpoints are pickles and are not read.
Hub ids such as facebook/sam2.1-hiera-large are refused, since the package would download a pickle;
use the transformers backend for them.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed, looks_local
from ttm_jax.pytorch.annotation.sam2_config import read_config


class PackageTracker:
  """`sam2.Tracker` with the package `sam2`."""

  def __init__(self, weights: ModelSource):
    self._predictor = _load(weights)
    self._dtype = weights.torch_dtype

  def __call__(self, video: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    def prompt(state: Any) -> None:
      for index, box in enumerate(boxes):
        self._predictor.add_new_points_or_box(
          state, frame_idx=0, obj_id=index + 1, box=np.asarray(box, np.float32)
        )

    return self._track(video, prompt)

  def from_masks(self, video: np.ndarray, masks: np.ndarray) -> np.ndarray:
    def prompt(state: Any) -> None:
      for index, mask in enumerate(masks):
        self._predictor.add_new_mask(state, frame_idx=0, obj_id=index + 1, mask=mask)

    return self._track(video, prompt)

  def _track(self, video: np.ndarray, prompt: Callable[[Any], None]) -> np.ndarray:
    """Return the logits of the objects that `prompt` adds to the predictor's state."""
    import torch

    kind = self._predictor.device.type
    with (
      tempfile.TemporaryDirectory(prefix='sam2') as folder,
      torch.inference_mode(),
      contextlib.redirect_stderr(io.StringIO()),  # Hide the package's two progress bars per clip.
      torch.autocast(kind, self._dtype, enabled=self._dtype != torch.float32),
    ):
      for number, frame in enumerate(video):
        # The package reads only JPEGs. At this quality the loss is not visible.
        path = os.path.join(folder, f'{number:05d}.jpg')
        Image.fromarray(frame).save(path, quality=100, subsampling=0)
      state = self._predictor.init_state(folder)
      prompt(state)
      maps = [
        logits[:, 0].float().cpu().numpy()
        for _, _, logits in self._predictor.propagate_in_video(state)
      ]
    return np.stack(maps)


def _load(weights: ModelSource):
  check_installed()
  try:
    from sam2.build_sam import build_sam2_video_predictor
  except (ImportError, RuntimeError) as error:
    raise InputError(
      f'the package sam2 cannot be imported ({error}); install it, or --sam_backend transformers'
    ) from error
  if not looks_local(weights.model):
    raise InputError(
      f'{weights.model}: the package sam2 downloads pickles; use --sam_backend transformers, or a'
      ' folder with one .safetensors and one .yaml'
    )
  folder = Path(weights.model)
  tensors, configs = sorted(folder.glob('*.safetensors')), sorted(folder.glob('*.yaml'))
  if len(tensors) != 1 or len(configs) != 1:
    raise InputError(f'{folder}: needs one .safetensors and one .yaml for the package sam2')
  config = read_config(configs[0])
  import safetensors.torch
  import yaml
  from hydra import initialize_config_dir
  from hydra.core.global_hydra import GlobalHydra

  GlobalHydra.instance().clear()
  # Give Hydra a copy of the validated section, and no access to other files of the folder.
  with tempfile.TemporaryDirectory(prefix='sam2') as place:
    Path(place, 'checked.yaml').write_text(yaml.safe_dump({'model': config}), encoding='utf-8')
    try:
      with initialize_config_dir(place, version_base='1.2'):
        predictor = build_sam2_video_predictor('checked.yaml', None, device=weights.torch_device)
      predictor.load_state_dict(safetensors.torch.load_file(tensors[0]))
    except Exception as error:  # Hydra, safetensors and torch raise their own exception types.
      said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
      raise InputError(
        f'{folder}: is not a model for the package sam2 ({said}); the .yaml must be the'
        ' configuration of the weights in the .safetensors'
      ) from error
  return predictor
