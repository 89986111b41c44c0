"""The studio's networks as an exported folder, without JAX."""

from collections.abc import Mapping, Sequence

import numpy as np

from ttm_jax.inference.request import Request, Sampling
from ttm_jax.pytorch.seeded import SeededPipeline
from ttm_jax.studio.backends import Limits, Progress


class ExportedNetworks:
  """A `backends.Backend` of an exported folder."""

  def __init__(
    self,
    folder: str,
    device: str = 'auto',
    dtype: str = 'auto',
    offline: bool = False,
    texts: Mapping[str, str] | None = None,
    command: Sequence[str] = ('python', '-m', 'ttm_jax.pytorch.generate'),
  ):
    """Load a folder; see `pytorch.seeded.SeededPipeline` for the arguments.

    `command` is the program that generates with the folder.

    Raises:
      InputError: If the folder cannot be loaded.
    """
    self._pipeline = SeededPipeline(folder, device, dtype, offline, texts)
    video = self._pipeline.video
    self.limits = Limits(
      frames=video['frames'],
      height=video['height'],
      width=video['width'],
      fps=video['fps'],
      max_objects=self._pipeline.max_objects,
      motion_steps=self._pipeline.steps('stage1'),
      video_steps=self._pipeline.steps('stage2'),
      fixed_steps=self._pipeline.has_fixed_steps('stage2'),
      motion_scales=self._pipeline.scale_ranges('stage1'),
      video_scales=self._pipeline.scale_ranges('stage2'),
    )
    self.command: Sequence[str] = [*command, folder]
    self.name = self._pipeline.folder.resolve().name

  def propose(self, request: Request, sampling: Sampling, progress: Progress) -> np.ndarray:
    return self._pipeline.trajectory(request, sampling, progress)

  def render(
    self, request: Request, ids: np.ndarray, sampling: Sampling, progress: Progress
  ) -> np.ndarray:
    return self._pipeline.frames(request, ids, sampling, progress)
