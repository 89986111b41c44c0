"""Define what a metric is: rows of numbers per sample, and one number of many rows.

Every metric has the two steps `measure` and `summarize`. `measure` does the expensive work, once
per sample: a value, or features of a network. `summarize` turns the rows of a set of samples into
the number of a table: their mean, or a distance between distributions. Rows can therefore be
cached, and a bootstrap draws rows instead of videos (`metrics.intervals`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sample:
  """A generated video beside the clip that it was generated for.

  Attributes:
    clip: the ground truth: video, label maps, frame rate and texts. Its first frame is the input
      image.
    video: the generated video, uint8 [T, H, W, 3].
    trajectory: the trajectory that the video was generated from, uint8 [T, H, W]; None if it was
      generated without one. Metrics of control compare with the label maps of the clip then.

  Raises:
    InputError: the video or the trajectory does not have the shape of the clip.
  """

  clip: Clip
  video: np.ndarray
  trajectory: np.ndarray | None = None

  def __post_init__(self):
    if self.video.dtype != np.uint8 or self.video.shape != self.clip.video.shape:
      raise InputError(
        f'clip {self.clip.key}: a generated video must be uint8 {self.clip.video.shape} like the'
        f' clip, got {self.video.dtype} {self.video.shape}'
      )
    given = self.trajectory
    if given is not None and (given.dtype != np.uint8 or given.shape != self.clip.ids.shape):
      raise InputError(
        f'clip {self.clip.key}: a trajectory must be uint8 {self.clip.ids.shape} like the label'
        f' maps, got {given.dtype} {given.shape}'
      )

  @property
  def target(self) -> np.ndarray:
    """The label maps that the objects should follow, uint8 [T, H, W]."""
    return self.clip.ids if self.trajectory is None else self.trajectory


class Metric(Protocol):
  """A measure of generated videos.

  Attributes:
    name: key in tables, files and flags, such as 'psnr'.
    title: head of its column, with the unit, such as 'PSNR (dB)'.
    higher_is_better: direction.
    protocol: one sentence that tells apart numbers that must not be compared: network, sizes,
      sampling of frames. It is printed under every table.
    reads_texts: whether it reads the caption or the prompts of clips.
    least: the smallest number of samples that gives a meaningful number; tables warn below it.
  """

  name: str
  title: str
  higher_is_better: bool
  protocol: str
  reads_texts: bool
  least: int

  def measure(self, samples: Sequence[Sample]) -> np.ndarray:
    """Return float64 [N, D], one row per sample, independent of the other samples.

    A row is NaN where the metric does not apply, such as a clip without objects.

    Raises:
      InputError: a sample cannot be measured, such as one with a single frame.
    """

  def summarize(self, rows: np.ndarray) -> float:
    """Return the number of float64 rows [N, D] without NaN, as `mean_of_rows` does.

    It must not depend on the order of the rows, and accept repeated ones.
    """


def mean_of_rows(rows: np.ndarray) -> float:
  """Return the mean of rows [N, 1]; NaN if there are none."""
  return float(rows.mean()) if len(rows) else float('nan')
