"""Averages and intervals of the evaluation of a pair of stages."""

import math

import numpy as np
import pytest

from ttm_jax.metrics.evaluation import averaged, intervals


def test_averages_are_over_clips_or_over_objects():
  values = {'iou': [[0.5], [0.7], []], 'direction': [[1.0, 0.0], [], [1.0]], 'ssim': [[], [], []]}
  row = averaged(values)
  assert row['iou'] == pytest.approx(0.6) and row['direction'] == pytest.approx(2 / 3)
  assert math.isnan(row['ssim'])


def test_videos_that_match_exactly_have_no_psnr():
  assert averaged({'psnr': [[20.0], []]}) == {'psnr': 20.0}
  assert averaged({'psnr': [[], []]}) == {'psnr': math.inf}


def test_intervals_are_those_of_clips():
  rng = np.random.default_rng(0)
  clips = rng.normal(3, 1, 400)
  values = {
    'iou': [[x] for x in clips],
    'direction': [[x] * (1 + i % 3) for i, x in enumerate(clips)],
  }
  found = intervals({**values, 'ssim': [[]] * 400, 'adherence': [[1.0], *[[]] * 399]})
  assert found.keys() == {'iou', 'direction'}
  for name, (low, high) in found.items():
    value = averaged(values)[name]
    assert low < value < high
  low, high = found['iou']
  assert high - low == pytest.approx(2 * 1.96 * clips.std() / 20, rel=0.15)
