"""Trajectory adherence: whether the generated objects are where the trajectory puts them.

All but `adherence_color` find the objects with SAM 2. It starts from the masks of frame 0, which
the generated video shares with the trajectory, and follows them through the generated video.
"""

import abc

import numpy as np

from ttm_jax.metrics.adherence import adherence
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.davis import boundary_accuracy, region_similarity
from ttm_jax.metrics.frames import check_frames
from ttm_jax.metrics.motion import mean_iou
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.overlap import box_iou
from ttm_jax.metrics.per_sample import PerSample, PerSampleNetwork


class AdherenceColor(PerSample):
  """IoU of the objects found by their colors, for procedural scenes."""

  name, title, higher_is_better = 'adherence_color', 'IoU by color', True
  protocol = (
    'IoU of objects segmented by their colors in the input image with the target trajectory, mean'
    ' over the frames after 0 in which the target shows the object, and over objects; valid for'
    ' scenes of distinct plain colors only.'
  )

  def value(self, sample: Sample) -> float:
    check_frames(sample, self.name, 2)
    return adherence(sample.video, sample.clip.video[0], sample.target)


class TrackedAdherence(PerSampleNetwork):
  """Base of metrics that compare the masks of SAM 2 with the target trajectory.

  Subclasses set `rule`, the end of the protocol, and define `agreement`.
  """

  higher_is_better = True
  rule: str

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'Masks by SAM 2 ({options.networks.label("sam2", self.name)}), tracked through the generated'
      ' video from the masks of frame 0; objects that enter later are not counted.'
      f' {self.rule}, frames after 0, mean over objects.'
    )

  def value(self, sample: Sample) -> float:
    check_frames(sample, self.name, 2)
    target = sample.target
    if not target[0].any():
      return float('nan')
    found = self._options.networks.get('sam2', self.name)(sample.video, target[0])
    counted = np.isin(target, np.unique(target[0])) * target
    return self.agreement(found[1:], counted[1:], np.unique(target[0][target[0] > 0]))

  @abc.abstractmethod
  def agreement(self, found: np.ndarray, target: np.ndarray, objects: np.ndarray) -> float:
    """Return the agreement of two label maps uint8 [T, H, W], for the given objects."""


class AdherenceSam2(TrackedAdherence):
  """Region similarity J of DAVIS."""

  name, title = 'adherence_sam2', 'J'
  rule = 'Region similarity J of DAVIS (1 where both masks are empty)'

  def agreement(self, found: np.ndarray, target: np.ndarray, objects: np.ndarray) -> float:
    return float(np.mean([region_similarity(found == o, target == o).mean() for o in objects]))


class BoundarySam2(TrackedAdherence):
  """Boundary accuracy F of DAVIS."""

  name, title = 'boundary_sam2', 'F'
  rule = 'Boundary accuracy F of DAVIS, within 0.8 % of the diagonal'

  def agreement(self, found: np.ndarray, target: np.ndarray, objects: np.ndarray) -> float:
    return float(np.mean([boundary_accuracy(found == o, target == o).mean() for o in objects]))


class MaskIou(TrackedAdherence):
  """IoU of masks, as in MagicBench."""

  name, title = 'mask_iou', 'mask IoU'
  rule = 'IoU of masks in the frames in which the target shows the object'

  def agreement(self, found: np.ndarray, target: np.ndarray, objects: np.ndarray) -> float:
    return mean_iou(found, target, skip_first=0)


class BoxIou(TrackedAdherence):
  """IoU of bounding boxes, as in MagicBench."""

  name, title = 'box_iou', 'box IoU'
  rule = 'IoU of bounding boxes in the frames in which the target shows the object'

  def agreement(self, found: np.ndarray, target: np.ndarray, objects: np.ndarray) -> float:
    return box_iou(found, target)
