"""Run the stages of an exported folder by seed, with progress that can end the sampling."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttm_jax.guidance_inputs import Range
from ttm_jax.inference.request import Request, Sampling

from .loading import find_folder, read_texts
from .pipeline import TTMPipeline

Progress = Callable[[int, int], None]


class SeededPipeline:
  """A `TTMPipeline` that takes requests and seeds, and returns arrays.

  Attributes:
    folder: the exported folder.
    pipe: the pipeline.
    video: frames, height, width and fps of its videos.
    max_objects: largest number of objects that every stage supports.
  """

  def __init__(
    self,
    folder: str,
    device: str = 'auto',
    dtype: str = 'auto',
    offline: bool = False,
    models: Mapping[str, str] | None = None,
  ):
    """Load a folder.

    Args:
      folder: exported folder, or repository id on the hub.
      device: PyTorch device; 'auto' for 'cuda' if available, else 'cpu'.
      dtype: 'float32', 'bfloat16' or 'float16'; 'auto' for float32 on a CPU, else bfloat16.
      offline: do not use the network.
      models: hub id or folder of a text encoder by its name, if not as exported.

    Raises:
      InputError: if the folder cannot be loaded.
    """
    if device == 'auto':
      device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if dtype == 'auto':
      dtype = 'float32' if device == 'cpu' else 'bfloat16'
    dtypes = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
    self.folder = find_folder(folder, offline)
    self.pipe = TTMPipeline.from_pretrained(self.folder, dtypes[dtype], local_files_only=offline)
    texts = self.pipe.text_encoder
    texts.register_to_config(models={**texts.config.models, **(models or {})})
    self.pipe.to(device)
    self.pipe.set_progress_bar_config(disable=True)
    self.video: Mapping[str, Any] = self.pipe.config.video
    stages = read_texts(Path(self.folder))['stages'].values()
    self.max_objects = min(stage['max_objects'] for stage in stages)

  def steps(self, stage: str) -> int:
    """Return the usual number of sampling steps of 'stage1' or 'stage2'; 0 if it is missing."""
    return self.pipe.config.stages[stage]['steps'] if getattr(self.pipe, stage) else 0

  def has_fixed_steps(self, stage: str) -> bool:
    """Return whether a stage is a student that samples in its usual number of steps alone."""
    return self.pipe.config.stages[stage]['student'] == 'dmd'

  def scale_ranges(self, stage: str) -> dict[str, Range]:
    """Return the ranges of the guidance scales that a stage takes; empty if they are fixed."""
    ranges = self.pipe.config.stages[stage].get('scale_ranges', {})
    return {name: (low, high) for name, (low, high) in ranges.items()}

  def trajectory(self, request: Request, sampling: Sampling, progress: Progress) -> np.ndarray:
    """Return the trajectory that stage 1 generates, uint8 [T, H, W].

    Args:
      request: image, mask and prompts.
      sampling: how stage 1 samples; the seed is that of `ttm_jax.pytorch.generate --seed`.
      progress: called as (done, total) after each step. What it raises ends the sampling.

    Raises:
      InputError: if there is no stage 1, or the request does not fit.
    """
    given = self._arguments(request, 'stage1', sampling, progress)
    return self.pipe.generate_trajectory(**given)[0]

  def frames(
    self, request: Request, ids: np.ndarray, sampling: Sampling, progress: Progress
  ) -> np.ndarray:
    """Return the video that stage 2 generates, uint8 [T, H, W, 3]; see `trajectory`.

    Args:
      request: image, mask and prompts.
      ids: trajectory, uint8 [T, H, W].
      sampling: how stage 2 samples.
      progress: as in `trajectory`.

    Raises:
      InputError: if the request or the trajectory does not fit.
    """
    given = self._arguments(request, 'stage2', sampling, progress)
    output = self.pipe(**given, trajectory=ids, object_prompts=dict(request.prompts))
    return np.stack([np.asarray(frame) for frame in output.frames[0]])

  def _arguments(
    self, request: Request, stage: str, sampling: Sampling, progress: Progress
  ) -> dict[str, Any]:
    total = sampling.steps or self.steps(stage)
    progress(0, total)

    def after(pipe: Any, step: int, t: Any, tensors: Any) -> dict:
      progress(step + 1, total)
      return {}

    return {
      'image': request.picture,
      'prompt': request.caption,
      'segmentation': request.mask,
      'motion_prompt': request.motion,
      'num_inference_steps': sampling.steps,
      'generator': torch.Generator('cpu').manual_seed(sampling.seed),
      'callback_on_step_end': after,
      **sampling.scales,
    }
