"""PSNR, SSIM and the first frame as metrics of samples, and the registry."""

import json
import os
import pathlib

import numpy as np
import pytest

from tests.helpers.metric_samples import sample
from ttm_jax.errors import InputError
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import METRICS, make

SHARED = pathlib.Path(os.environ.get('TTM_SHARED_DATA', '../shared/data')) / 'metrics_reference'


@pytest.mark.skipif(not SHARED.is_dir(), reason=f'TTM_SHARED_DATA: no reference values in {SHARED}')
def test_published_values():
  """The published PSNR is the mean over frames, so each frame is a sample of its own."""
  clips = np.load(SHARED / 'clips_u8.npz')
  golden = json.loads((SHARED / 'video_metrics.json').read_text())['clips_u8.npz']
  frames = [
    sample(truth=a[t : t + 1], video=b[t : t + 1], ids=np.zeros((1, 72, 128), np.uint8))
    for a, b in zip(clips['a'], clips['b'], strict=True)
    for t in range(len(a))
  ]
  psnr, ssim = make(['psnr', 'ssim'], MetricOptions())
  rows = psnr.measure(frames)
  assert rows.shape == (32, 1) and rows.dtype == np.float64
  np.testing.assert_allclose(rows[:, 0], np.ravel(golden['psnr_per_frame']), rtol=1e-12)
  assert psnr.summarize(rows) == pytest.approx(31.19994, abs=5e-6)
  assert ssim.summarize(ssim.measure(frames)) == pytest.approx(0.97489, abs=5e-6)


def test_equal_videos_are_bounded():
  one = sample()
  same = sample(truth=one.clip.video, video=one.clip.video)
  psnr, ssim, first = make(['psnr', 'ssim', 'first_frame'], MetricOptions())
  assert [metric.measure([same])[0, 0] for metric in (psnr, first)] == [100, 100]
  assert ssim.measure([same])[0, 0] == pytest.approx(1)


def test_first_frame_ignores_the_others():
  one = sample()
  video = one.clip.video.copy()
  video[1:] = 0
  video[0] ^= 1  # Each value is off by 1.
  (first,) = make(['first_frame'], MetricOptions())
  value = first.measure([sample(truth=one.clip.video, video=video)])[0, 0]
  assert value == pytest.approx(10 * np.log10(255**2))


def test_small_frames_name_the_clip():
  small = sample(seed=3, size=(10, 40), objects=1, ids=np.zeros((2, 10, 40), np.uint8))
  with pytest.raises(InputError, match='clip clip3: SSIM needs frames of at least 11x11'):
    make(['ssim'], MetricOptions())[0].measure([small])


def test_every_metric_says_what_it_is():
  for name, metric in zip(METRICS, make(list(METRICS), MetricOptions()), strict=True):
    assert metric.name == name and metric.title and metric.protocol.endswith('.')
    assert isinstance(metric.higher_is_better, bool) and metric.least >= 1
    assert metric.summarize.__self__ is metric if hasattr(metric.summarize, '__self__') else True
  titles = [metric.title for metric in make(list(METRICS), MetricOptions())]
  assert len(set(titles)) == len(titles)


def test_names_are_checked():
  with pytest.raises(InputError, match=r'unknown metric "pnsr" \(did you mean "psnr"\?\)'):
    make(['psnr', 'pnsr'], MetricOptions())
  with pytest.raises(InputError, match='"psnr" is named twice'):
    make(['psnr', 'psnr'], MetricOptions())
  with pytest.raises(InputError, match=r'weights are given for "psnrr", .*\(did you mean "psnr"'):
    make(['psnr'], MetricOptions(weights={'psnrr': 'x'}))
