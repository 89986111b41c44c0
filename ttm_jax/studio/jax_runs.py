"""The studio's networks as JAX runs."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ttm_jax.data.context import read_encoding
from ttm_jax.data.encode import TEXT_ENCODERS
from ttm_jax.data.schema import FLOW
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.inference.pretrained_texts import load_encoders
from ttm_jax.inference.request import Request, Sampling
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.studio.backends import Limits, Progress
from ttm_jax.training.students import samples_in_few_steps


class JaxRuns:
  """A `backends.Backend` of one or two run directories."""

  def __init__(
    self,
    stage1: str | None,
    stage2: str,
    weights: ModelSource | None = None,
    texts: Mapping[str, str] | None = None,
  ):
    """Load the runs.

    Args:
      stage1: Run of the image-to-motion stage, or None.
      stage2: Run of the motion-to-video stage.
      weights: Device, dtype and offline flag of pretrained text encoders.
      texts: Hub id or folder of a pretrained text encoder by its name, if not as recorded.

    Raises:
      InputError: If a run cannot be loaded, or the runs do not fit each other.
    """
    runs = [run for run in (stage1, stage2) if run is not None]
    encodings = [read_encoding(run) for run in runs]
    for run, encoding in zip(runs, encodings, strict=True):
      if encoding.trajectory == FLOW:
        raise InputError(
          f'run {run} was trained on optical flow, so that there are no masks to edit'
        )
    pretrained = {name for e in encodings for name in e.encoders} - {*TEXT_ENCODERS}
    encoders = dict(TEXT_ENCODERS)
    if pretrained:
      encoders = load_encoders(encodings, weights or ModelSource(''), texts or {})
    self._pipeline = Pipeline(
      None if stage1 is None else Stage(stage1, STAGE1, encoders),
      Stage(stage2, STAGE2, encoders),
    )
    encoding, first, second = self._pipeline.encoding, self._pipeline.stage1, self._pipeline.stage2
    self.limits = Limits(
      frames=encoding.frames,
      height=encoding.height,
      width=encoding.width,
      fps=encoding.fps,
      max_objects=min(e.max_objects for e in encodings),
      motion_steps=0 if first is None else first.sampling_steps,
      video_steps=second.sampling_steps,
      fixed_steps=samples_in_few_steps(second.denoiser.config),
      motion_scales={} if first is None else first.scale_ranges,
      video_scales=second.scale_ranges,
    )
    named = [] if stage1 is None else ['--stage1', stage1]
    program = 'python', '-m', 'ttm_jax.generate'
    self.command: Sequence[str] = [*program, *named, '--stage2', stage2]
    self.name = ' + '.join(Path(run).name for run in runs)

  def propose(self, request: Request, sampling: Sampling, progress: Progress) -> np.ndarray:
    stage = self._pipeline.stage1
    if stage is not None:
      stage = stage.sampled(sampling.steps, sampling.scales)
    pipeline = Pipeline(stage, self._pipeline.stage2)
    each = _steps(progress, 0 if stage is None else stage.sampling_steps)
    return pipeline.trajectories([request], sampling.seed, each)[0]

  def render(
    self, request: Request, ids: np.ndarray, sampling: Sampling, progress: Progress
  ) -> np.ndarray:
    stage = self._pipeline.stage2.sampled(sampling.steps, sampling.scales)
    each = _steps(progress, stage.sampling_steps)
    return Pipeline(None, stage).videos([request], ids[None], sampling.seed, each)[0]


def _steps(progress: Progress, total: int) -> Callable[[], None]:
  """Return a function that counts steps for `progress`, which may raise to end the sampling."""
  done = itertools.count(1)
  progress(0, total)
  return lambda: progress(min(next(done), total), total)
