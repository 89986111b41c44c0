"""The motion accuracy of videos: true clips move as told, a repeated first frame does not."""

import dataclasses

import numpy as np

from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make
from ttm_jax.scenes.generator import SceneConfig, scene

CLIPS = [scene(SceneConfig(motions=('left', 'right', 'up', 'down')), i) for i in range(6)]


def test_true_clips_and_a_repeated_first_frame():
  (metric,) = make(['direction'], MetricOptions())
  still = [np.repeat(clip.video[:1], len(clip.video), 0) for clip in CLIPS]
  assert metric.measure([Sample(clip, clip.video) for clip in CLIPS]).mean() > 0.9
  rows = metric.measure([Sample(clip, video) for clip, video in zip(CLIPS, still, strict=True)])
  assert rows.shape == (6, 1) and (rows == 0).all()


def test_clips_that_name_no_direction_do_not_count():
  (metric,) = make(['direction'], MetricOptions())
  clip = dataclasses.replace(CLIPS[0], prompts=tuple('a ball' for _ in CLIPS[0].prompts))
  assert np.isnan(metric.measure([Sample(clip, clip.video)])).all()
