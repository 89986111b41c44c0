"""LPIPS of the generated video with the clip, frame by frame."""

from ttm_jax.errors import InputError
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.per_sample import PerSample


class Lpips(PerSample):
  """Mean LPIPS distance of the frames (Zhang et al. 2018)."""

  name, title, higher_is_better = 'lpips', 'LPIPS', False

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'LPIPS v0.1 ({options.networks.label("lpips", self.name)}), mean over all frames at the'
      ' resolution of the clips, frame 0 included.'
    )

  def value(self, sample: Sample) -> float:
    distance = self._options.networks.get('lpips', self.name)
    if min(sample.video.shape[1:3]) < distance.least:
      raise InputError(
        f'clip {sample.clip.key}: LPIPS needs frames of at least {distance.least}x{distance.least}'
        f' pixels, got {sample.video.shape[1]}x{sample.video.shape[2]}; leave out the metric lpips'
      )
    return float(distance(sample.video, sample.clip.video).mean())
