"""Label maps recolored and laid over each other."""

import numpy as np

from ttm_jax.trajectory_layers import lay_over, recolor


def maps(*rows):
  return np.array([rows], np.uint8)


def test_recolored_objects_stay_apart_and_get_all_labels():
  ids = maps([0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 0, 1])
  drawn = set()
  for seed in range(40):
    changed = recolor(ids, np.random.default_rng(seed))
    pairs = set(zip(ids.flat, changed.flat, strict=True))
    assert len(pairs) == 9, 'each label becomes one label'
    assert (0, 0) in pairs
    assert sorted(label for _, label in pairs) == list(range(9))
    drawn.add(int(changed[0, 0, 1]))
  assert drawn == set(range(1, 9))
  same = recolor(ids, np.random.default_rng(3))
  np.testing.assert_array_equal(same, recolor(ids, np.random.default_rng(3)))


def test_objects_behind_get_the_labels_after_those_in_front():
  front, back = maps([0, 0, 1, 2]), maps([1, 2, 2, 0])
  np.testing.assert_array_equal(lay_over(front, back), maps([3, 4, 1, 2]))
  np.testing.assert_array_equal(lay_over(maps([0, 0, 0, 0]), back), back)
  # No label above 8: the third object behind is left out.
  front, back = maps([0, 0, 0, 6]), maps([1, 2, 3, 3])
  np.testing.assert_array_equal(lay_over(front, back), maps([7, 8, 0, 6]))
