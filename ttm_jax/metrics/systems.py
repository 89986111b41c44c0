"""What is scored: a pair of runs, one run, an exported folder, or a folder of generated videos.

Each is a `Source` of samples. Clips are read and videos are generated one batch at a time.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import Pipeline, Request
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.defaults import BATCH
from ttm_jax.metrics.evaluation import (
  Evaluation,
  Generated,
  batches,
  generate,
  noise_seed,
  request_of,
)
from ttm_jax.metrics.references import References
from ttm_jax.metrics.scored_videos import Inspection, read_fitted

CHAINED, FROM_TRUTH = 'both stages', 'stage 2 from the ground-truth trajectory'


@dataclasses.dataclass(frozen=True)
class Batch:
  """Samples of consecutive clips.

  Attributes:
    seed: index of the noise seed.
    first: index of the first clip.
    samples: one list per system, all of the same clips.
  """

  seed: int
  first: int
  samples: Mapping[str, list[Sample]]


class Source(Protocol):
  """Generated videos of clips."""

  @property
  def names(self) -> tuple[str, ...]:
    """The systems that generated them; the first is the one that is compared with others."""

  @property
  def seeds(self) -> tuple[int, ...]:
    """The noise seeds."""

  @property
  def references(self) -> References:
    """The clips."""

  def batches(self) -> Iterator[Batch]:
    """Yield the samples of all clips, for one seed after another.

    Raises:
      InputError: a clip cannot be generated, or a file cannot be read.
    """


@dataclasses.dataclass(frozen=True)
class PairOfRuns:
  """Stage 1 and stage 2: the videos of both, and those from ground-truth trajectories.

  Attributes:
    names, seeds, references: see `Source`.
    pipeline: the stages.
    evaluation: what they have generated for the first seed (`evaluation.evaluate`).
    batch: videos to generate at once, as in the evaluation.
  """

  pipeline: Pipeline
  evaluation: Evaluation
  references: References
  seeds: tuple[int, ...]
  batch: int = BATCH
  names: tuple[str, ...] = (CHAINED, FROM_TRUTH)

  def batches(self) -> Iterator[Batch]:
    """See `Source`."""
    found = self.evaluation
    for first in range(0, len(found.clips), self.batch):
      some = slice(first, first + self.batch)
      made = Generated(
        found.clips[some], found.trajectories[some], found.from_truth[some], found.chained[some]
      )
      yield Batch(0, first, _of_pair(made))
    for number, seed in enumerate(self.seeds[1:], 1):
      later = generate(self.pipeline, self.references, seed, self.batch)
      for index, made in enumerate(later):
        yield Batch(number, index * self.batch, _of_pair(made))


class Generator(Protocol):
  """Generates videos of requests, such as a `Stage`."""

  def generate(self, requests: Sequence[Request], seed: int) -> np.ndarray:
    """Return videos, uint8 [B, T, H, W, 3]; see `Stage.generate`."""


@dataclasses.dataclass(frozen=True)
class Chained:
  """Both stages, of which the trajectory is not a label map, such as optical flow.

  Attributes:
    pipeline: the stages.
  """

  pipeline: Pipeline

  def generate(self, requests: Sequence[Request], seed: int) -> np.ndarray:
    """Return videos, uint8 [B, T, H, W, 3]."""
    return self.pipeline.videos(requests, self.pipeline.trajectories(requests, seed), seed)


@dataclasses.dataclass(frozen=True)
class OneRun:
  """A system without label maps: a run of the TI2V baseline, or both stages on optical flow.

  Attributes:
    names, seeds, references: see `Source`.
    stage: what generates the videos.
    batch: videos to generate at once.
  """

  stage: Generator
  references: References
  seeds: tuple[int, ...]
  names: tuple[str, ...]
  batch: int = BATCH

  def batches(self) -> Iterator[Batch]:
    """See `Source`."""
    for number, seed in enumerate(self.seeds):
      for first, padded in batches(self.references, min(self.batch, len(self.references))):
        requests = [request_of(clip) for clip in padded]
        videos = self.stage.generate(requests, noise_seed(seed, first))
        clips = padded[: len(self.references) - first]
        yield Batch(number, first, {self.names[0]: _samples(clips, videos)})


@dataclasses.dataclass(frozen=True)
class ExportedFolder:
  """An exported folder, run by PyTorch: the videos of both stages.

  The noise of a video depends on its seed and its clip, not on the size of the batch.

  Attributes:
    names, seeds, references: see `Source`.
    pipe: a `pytorch.pipeline.TTMPipeline`.
    steps: sampling steps of each stage; None as configured.
    batch: videos to generate at once.
    scales: guidance scales by the names of `guidance_inputs.RANGES`; as configured where missing.
  """

  pipe: Any
  references: References
  seeds: tuple[int, ...]
  names: tuple[str, ...]
  steps: int | None = None
  batch: int = BATCH
  scales: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def batches(self) -> Iterator[Batch]:
    """See `Source`."""
    import torch

    for number, seed in enumerate(self.seeds):
      for first in range(0, len(self.references), self.batch):
        last = min(first + self.batch, len(self.references))
        clips = [self.references[i] for i in range(first, last)]
        requests = [request_of(clip) for clip in clips]
        noise = [np.random.SeedSequence([seed, i]) for i in range(first, last)]
        drawn = [int(one.generate_state(1, np.uint64)[0] >> np.uint64(1)) for one in noise]
        output = self.pipe(
          [request.picture for request in requests],
          [request.caption for request in requests],
          [request.mask for request in requests],
          [request.motion for request in requests],
          [dict(request.prompts) for request in requests],
          num_inference_steps=self.steps,
          **self.scales,
          generator=[torch.Generator('cpu').manual_seed(one) for one in drawn],
        )
        videos = [np.stack([np.asarray(frame) for frame in video]) for video in output.frames]
        samples = _samples(clips, videos, output.trajectory)
        yield Batch(number, first, {self.names[0]: samples})


@dataclasses.dataclass(frozen=True)
class VideoFolder:
  """A folder of generated videos; see `scored_videos`.

  Attributes:
    names, references: see `Source`.
    inspection: the videos; it has those of all references.
    batch: videos to read at once.
  """

  inspection: Inspection
  references: References
  names: tuple[str, ...]
  batch: int = 8

  @property
  def seeds(self) -> tuple[int, ...]:
    """The noise seeds."""
    return self.inspection.seeds

  def batches(self) -> Iterator[Batch]:
    """See `Source`."""
    for number, seed in enumerate(self.seeds):
      for first in range(0, len(self.references), self.batch):
        samples = []
        for index in range(first, min(first + self.batch, len(self.references))):
          clip, header = self.references[index], self.references.headers[index]
          path = self.inspection.paths[header.key, seed]
          samples.append(Sample(clip, read_fitted(path, header, len(clip.video))))
        yield Batch(number, first, {self.names[0]: samples})


def load_exported(folder: str, device: str, offline: bool, models: Mapping[str, str] = {}) -> Any:
  """Load an exported folder as a `pytorch.pipeline.TTMPipeline` without progress bars.

  Args:
    folder: exported folder, or repository id on the Hugging Face Hub.
    device: PyTorch device; 'auto' for a GPU if there is one.
    offline: do not use the network.
    models: hub id or folder of a pretrained text encoder by its name, instead of the exported one.

  Raises:
    InputError: a file is missing or damaged, or the device cannot be used.
  """
  import torch

  from ttm_jax.pytorch.generate import checked_device
  from ttm_jax.pytorch.pipeline import TTMPipeline

  device = checked_device(device)
  dtype = torch.float32 if device == 'cpu' else torch.bfloat16
  pipe = TTMPipeline.from_pretrained(folder, dtype, local_files_only=offline)
  # On the command line a path is relative to the working directory, not to config.json.
  given = {name: str(Path(m).resolve()) if Path(m).is_dir() else m for name, m in models.items()}
  pipe.text_encoder.register_to_config(models={**pipe.text_encoder.config.models, **given})
  pipe.set_progress_bar_config(disable=True)
  return pipe.to(device)


def check_clips(
  references: References,
  name: str,
  shape: tuple[int, int, int],
  fps: float,
  check: Callable[[Clip], object] | None = None,
) -> None:
  """Check that videos can be generated for clips.

  Args:
    references: the clips.
    name: what generates the videos, for error messages.
    shape: frames, height and width of these videos.
    fps: their frames per second.
    check: raises InputError for a clip that cannot be generated; None to check the sizes only.

  Raises:
    InputError: a clip has another size, length or frame rate, or is refused by `check`.
  """
  for number, header in enumerate(references.headers):
    if header.shape != shape or abs(header.fps - fps) > 1e-3 * fps:
      raise InputError(
        f'{name} generates {_said(shape, fps)}, but clip {header.key} has'
        f' {_said(header.shape, header.fps)}: score clips of that size and frame rate'
      )
    try:
      if check is not None:
        check(references[number])
    except InputError as error:
      raise InputError(f'clip {header.key} cannot be evaluated on: {error}') from error


def _said(shape: tuple[int, int, int], fps: float) -> str:
  return f'{shape[0]} frames of {shape[2]}x{shape[1]} at {fps:g} per second'


def _of_pair(made: Generated) -> dict[str, list[Sample]]:
  return {
    CHAINED: _samples(made.clips, made.chained, made.trajectories),
    FROM_TRUTH: _samples(made.clips, made.from_truth, [clip.ids for clip in made.clips]),
  }


def _samples(
  clips: Sequence[Clip],
  videos: Sequence[np.ndarray] | np.ndarray,
  trajectories: Sequence[np.ndarray] | np.ndarray | None = None,
) -> list[Sample]:
  """Return the samples of clips; there may be more videos than clips."""
  given = [None] * len(clips) if trajectories is None else trajectories
  return [Sample(clip, videos[i], given[i]) for i, clip in enumerate(clips)]
