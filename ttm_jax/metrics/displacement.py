"""Average displacement: how much moves in the generated video, by optical flow."""

import numpy as np

from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.frames import check_frames
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.per_sample import PerSample


class Displacement(PerSample):
  """Mean length of the flow. More is not better by itself: noise and camera motion count, too."""

  name, title, higher_is_better = 'displacement', 'displacement (px)', True

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'Mean length of the optical flow (RAFT, {options.networks.label("raft", self.name)}) in'
      ' pixels over all pixels and consecutive frames; comparable at equal resolution and frame'
      ' rate only.'
    )

  def value(self, sample: Sample) -> float:
    check_frames(sample, self.name, 2)
    flow = self._options.networks.get('raft', self.name)(sample.video)
    return float(np.linalg.norm(flow, axis=-1).mean(dtype=np.float64))
