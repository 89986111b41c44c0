"""The table of held-out clips: lower bound, values, paired differences."""

import numpy as np

from benchmarks import held_out
from tests.helpers import tiny
from ttm_jax.scenes.generator import SceneConfig, scene


def test_the_lower_bound_repeats_frame_and_masks():
  config = SceneConfig(size=(tiny.SIDE, tiny.SIDE), frames=4, motions=('left',), max_objects=1)
  clips = [scene(config, i) for i in range(3)]
  found = held_out.floor(clips)
  assert found.shape == (3, 3) and (found[:, 1] == found[:, 2]).all()
  for clip, (iou, still, _) in zip(clips, found, strict=True):
    parts = [
      ((clip.ids[0] > 0) & (clip.ids[t] > 0)).sum() / ((clip.ids[0] > 0) | (clip.ids[t] > 0)).sum()
      for t in (1, 2, 3)
    ]
    np.testing.assert_allclose(iou, np.mean(parts))
    assert 5 < still < 40


def test_rows_are_means_and_differences():
  rng = np.random.default_rng(0)
  floor = rng.normal(20, 5, (1, 6, 3))
  better = floor + np.array([0.5, 2.0, 1.0]) + rng.normal(0, 0.01, (2, 6, 3))
  found = held_out.rows({'floor': floor, 'a': better, 'b': floor})
  assert [row[0] for row in found] == [
    *('floor', 'a', 'b', 'a, above the lower bound', 'b, above the lower bound', 'a minus b'),
  ]
  value, low, high = (float(x.strip('[],')) for x in found[3][2].split())
  # Clips differ by 5, the two systems by 2 on each: pairing makes the interval narrow.
  assert value == 2.0 and 1.9 <= low <= high <= 2.1
  assert found[4][1].startswith('0.000 [') and found[5] == ['a minus b', *found[3][1:]]
  assert float(found[0][2].split()[0]) == round(float(floor[..., 1].mean()), 1)
