"""Whether objects of a generated video move as their prompts say, in procedural scenes."""

import numpy as np

from ttm_jax.metrics.adherence import find_by_color
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.frames import check_frames
from ttm_jax.metrics.motion import DIRECTIONAL, judged_motions
from ttm_jax.metrics.per_sample import PerSample


class Direction(PerSample):
  """The share of a clip's objects told to go left, right, up or down that do so."""

  name, title, higher_is_better = 'direction', 'motion accuracy (direction)', True
  reads_texts = True
  protocol = (
    'motion accuracy (direction): objects whose prompt says left, right, up or down and that move'
    ' that way, segmented by their colors in the input image; per clip, then over clips; valid for'
    ' scenes of distinct plain colors only.'
  )

  def value(self, sample: Sample) -> float:
    check_frames(sample, self.name, 2)
    clip = sample.clip
    found = find_by_color(sample.video, clip.video[0], clip.ids[0])
    right = [ok for motion, ok in judged_motions(clip.prompts, found) if motion in DIRECTIONAL]
    return float(np.mean(right)) if right else float('nan')
