"""Values over time: keyframes, smooth interpolation and positions along a path."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from ttm_jax.errors import InputError
from ttm_jax.keyframes import along_path, checked_range, over_time, smoothly

KEYS = st.dictionaries(st.integers(0, 30), st.floats(-50, 50), min_size=1, max_size=8)


@given(KEYS)
def test_smooth_values_are_those_of_scipy(keys):
  at = np.arange(31)
  frames = np.array(sorted(keys))
  values = np.array([keys[frame] for frame in frames])
  found = smoothly(frames, values, at)
  if len(frames) > 2:
    inside = (at >= frames[0]) & (at <= frames[-1])
    expected = PchipInterpolator(frames, values)(at[inside])
    np.testing.assert_allclose(found[inside], expected, atol=1e-9)
  np.testing.assert_allclose(found[frames], values, atol=1e-9)
  assert (found[: frames[0]] == values[0]).all() and (found[frames[-1] :] == values[-1]).all()


@given(KEYS)
def test_smooth_values_do_not_overshoot(keys):
  frames = sorted(keys)
  found = over_time(keys, 31, 'values', smooth=True)
  for first, last in itertools.pairwise(frames):
    low, high = sorted((keys[first], keys[last]))
    between = found[first : last + 1]
    assert between.min() >= low - 1e-9 and between.max() <= high + 1e-9


def test_two_keyframes_are_a_line():
  assert over_time({0: 0, 4: 8}, 5, 'values', smooth=True).tolist() == [0, 2, 4, 6, 8]


def test_equal_keyframes_stand_still():
  found = over_time({0: 0, 2: 5, 5: 5, 8: 0}, 9, 'values', smooth=True)
  assert (found[2:6] == 5).all()


def test_a_path_at_constant_speed():
  corner = along_path([(0, 0), (6, 0), (6, 6)], 5)
  assert corner.tolist() == [[0, 0], [3, 0], [6, 0], [6, 3], [6, 6]]


def test_a_speed_curve_changes_when_but_not_where():
  late = along_path([(0, 0), (8, 0)], 5, [(0, 0), (0.5, 0.25), (1, 1)])
  assert late[:, 0].tolist() == pytest.approx([0, 0.75, 2, 4.5, 8], abs=0.4)
  assert late[2, 0] == 2 and (late[:, 1] == 0).all()
  assert (np.diff(late[:, 0]) > 0).all()


def test_a_single_point_and_a_single_frame():
  assert along_path([(3, 4)], 3).tolist() == [[3, 4]] * 3
  assert along_path([(3, 4), (5, 6)], 1).tolist() == [[3, 4]]


@pytest.mark.parametrize(
  'points, speed, message',
  [
    ([], [(0, 0), (1, 1)], 'at least one'),
    ([(0, 0), (1,)], [(0, 0), (1, 1)], 'list of'),
    ([(0, 0), (np.inf, 1)], [(0, 0), (1, 1)], 'finite'),
    ([(0, 0)], [(0, 0), (0.5, 0.7), (0.4, 0.8), (1, 1)], 'times must increase'),
    ([(0, 0)], [(0, 0), (0.5, 0.7), (0.6, 0.6), (1, 1)], 'must not fall'),
    ([(0, 0)], [(0, 0.1), (1, 1)], r'from \(0, 0\)'),
    ([(0, 0)], 'fast', 'list of'),
  ],
)
def test_bad_paths(points, speed, message):
  with pytest.raises(InputError, match=message):
    along_path(points, 4, speed)


def test_ranges_of_frames():
  assert checked_range(8, 2, None) == (2, 7)
  for start, stop, message in ((8, None, 'no frame 8'), (-1, None, 'no frame -1'), (3, 2, 'none')):
    with pytest.raises(InputError, match=message):
      checked_range(8, start, stop)
