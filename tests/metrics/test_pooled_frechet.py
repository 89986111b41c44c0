"""Fréchet distance of pooled pixels."""

import numpy as np
import pytest

from ttm_jax.data.schema import Clip
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.registry import MetricOptions, make


def clip_of(video):
  return Clip('clip', video, np.zeros(video.shape[:3], np.uint8), 8.0, '', '', (), ())


def test_features_are_means_of_cells():
  (metric,) = make(['pooled_frechet'], MetricOptions())
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (1, 8, 12, 16, 3), np.uint8)
  got = metric.features(video).reshape(4, 4, 4, 3)
  assert got[1, 2, 3] == pytest.approx(video[0, 2:4, 6:9, 12:16].mean((0, 1, 2)) / 255)


def test_equal_sets_have_distance_0_and_a_shift_its_square():
  (metric,) = make(['pooled_frechet'], MetricOptions())
  rng = np.random.default_rng(1)
  videos = rng.integers(0, 200, (20, 4, 8, 8, 3), np.uint8)
  samples = [Sample(clip_of(video), video) for video in videos]
  assert metric.summarize(metric.measure(samples)) == pytest.approx(0, abs=1e-9)
  brighter = [Sample(clip_of(video), video + np.uint8(51)) for video in videos]
  assert metric.summarize(metric.measure(brighter)) == pytest.approx(0.2**2 * 192, rel=1e-6)
