"""Metrics of the pixels: PSNR and SSIM with the ground truth, and fidelity to the input image."""

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.per_sample import PerSample
from ttm_jax.metrics.video import WINDOW, psnr, ssim

MOST_DB = 100.0  # The PSNR of equal videos would be infinite, and so would be every mean.


class Psnr(PerSample):
  """PSNR of the generated video with the clip."""

  name, title, higher_is_better = 'psnr', 'PSNR (dB)', True
  protocol = (
    'PSNR of the mean squared error over all frames of the clip, frame 0 included; equal videos'
    f' count as {MOST_DB:.0f} dB.'
  )

  def value(self, sample: Sample) -> float:
    return _bounded_psnr(sample.clip.video, sample.video)


class Ssim(PerSample):
  """SSIM of the generated video with the clip."""

  name, title, higher_is_better = 'ssim', 'SSIM', True
  protocol = (
    f'SSIM with a Gaussian window of {WINDOW}x{WINDOW}, mean over positions where it fits, color'
    ' channels and frames, frame 0 included.'
  )

  def value(self, sample: Sample) -> float:
    try:
      return ssim(sample.clip.video, sample.video)
    except InputError as error:
      raise InputError(f'clip {sample.clip.key}: {error}; leave out the metric ssim') from error


class FirstFrame(PerSample):
  """PSNR of the first generated frame with the input image."""

  name, title, higher_is_better = 'first_frame', 'first frame (dB)', True
  protocol = (
    f'PSNR of generated frame 0 with the input image; equal images count as {MOST_DB:.0f} dB.'
  )

  def value(self, sample: Sample) -> float:
    return _bounded_psnr(sample.clip.video[:1], sample.video[:1])


def _bounded_psnr(a: np.ndarray, b: np.ndarray) -> float:
  return min(psnr(a, b), MOST_DB)
