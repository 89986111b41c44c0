"""Edits by users and by augmentation of label maps, by value."""

from typing import Any

import numpy as np
import pytest

from tests.helpers.label_maps import clip, frame
from ttm_jax import trajectory, trajectory_edits
from ttm_jax.errors import InputError

untyped: Any = trajectory_edits  # For calls that a type checker would refuse.


class TestEdits:
  square = clip(*[frame('......', '.11...', '.11...', '......')] * 3)

  def test_translate_by_a_path(self):
    moved = trajectory_edits.translate(self.square, 1, [(0, 0), (2, 1), (-2, 0.6)])
    assert (moved[0] == self.square[0]).all()
    assert (moved[1] == frame('......', '......', '...11.', '...11.')).all()
    assert (moved[2] == frame('......', '......', '1.....', '1.....')).all()
    assert self.square[1, 1, 1] == 1, 'the argument stays'

  def test_translate_by_key_points(self):
    moved = trajectory_edits.translate(self.square, 1, {2: (2, 0), 0: (0, 0)})
    assert [m.any(0).tolist().index(True) for m in moved] == [1, 2, 3]
    # Before the first and after the last key point the value is constant.
    moved = trajectory_edits.translate(self.square, 1, {1: (1, -1)})
    assert (moved == frame('..11..', '..11..', '......', '......')).all()

  def test_out_of_the_picture(self):
    assert not trajectory_edits.translate(self.square, 1, {0: (9, 0)}).any()
    assert not trajectory_edits.translate(self.square, 1, {0: (0, -3)}).any()

  def test_the_smaller_is_on_top(self):
    ids = clip(frame('11.2', '11..'))
    over = trajectory_edits.translate(ids, 2, {0: (-2, 0)})
    assert (over[0] == frame('12..', '11..')).all()
    under = trajectory_edits.translate(ids, 1, {0: (2, 0)})
    assert (under[0] == frame('..12', '..11')).all()

  def test_of_equals_the_edited_one_is_on_top(self):
    ids = clip(frame('12'))
    assert trajectory_edits.translate(ids, 1, {0: (1, 0)}).tolist() == [[[0, 1]]]
    assert trajectory_edits.translate(ids, 2, {0: (-1, 0)}).tolist() == [[[2, 0]]]

  def test_the_order_does_not_change_within_a_clip(self):
    # 1 is larger on average, though not in frame 0; it stays behind.
    ids = clip(frame('....', '....', '1.22'), frame('111.', '111.', '1122'))
    moved = trajectory_edits.translate(ids, 1, {0: (2, 0)})
    assert (moved[0] == frame('....', '....', '..22')).all()
    assert (moved[1] == frame('..11', '..11', '..22')).all()

  def test_areas_are_averaged_over_the_frames_that_show_the_object(self):
    # 2 is larger while it is visible, and has fewer pixels in the clip.
    ids = clip(frame('11222'), frame('11...'), frame('11...'))
    moved = trajectory_edits.translate(ids, 1, {0: (1, 0)})
    assert moved[0].tolist() == [[0, 1, 1, 2, 2]]

  def test_the_background_is_below_however_small_it_is(self):
    ids = clip(frame('1224'))
    assert trajectory_edits.scale(ids, 1, {0: 8}).tolist() == [[[1, 2, 2, 4]]]

  def test_scale_about_the_centroid(self):
    doubled = trajectory_edits.scale(self.square, 1, [1, 2, 0.5])
    assert (doubled[0] == self.square[0]).all()
    assert (doubled[1] == frame('1111..', '1111..', '1111..', '1111..')).all()
    assert doubled[2].sum() == 1
    assert doubled[2][1:3, 1:3].sum() == 1
    keyed = trajectory_edits.scale(self.square, 1, {0: 1, 2: 3})
    assert (keyed[1] == doubled[1]).all()

  def test_scale_of_odd_widths_keeps_the_ratio(self):
    line = clip(frame('....111....'))
    assert trajectory_edits.scale(line, 1, {0: 2}).sum() == 6

  def test_scale_leaves_at_least_a_pixel(self):
    ring = clip(frame('11111', '1...1', '1...1', '1...1', '11111'), frame(*['.....'] * 5))
    scaled = trajectory_edits.scale(ring, 1, {0: 0.01})
    assert scaled[0, 2, 2] == 1 and scaled.sum() == 1

  def test_retime(self):
    ids = clip(frame('1..2'), frame('.1.2'), frame('..12'))
    slow = trajectory_edits.retime(ids, 1, {0: 0, 2: 1})
    assert slow.tolist() == [[[1, 0, 0, 2]], [[0, 1, 0, 2]], [[0, 1, 0, 2]]]  # 0, 0.5, 1.
    back = trajectory_edits.retime(ids, 1, [2, 1.4, 0])
    assert back.tolist() == [[[0, 0, 1, 2]], [[0, 1, 0, 2]], [[1, 0, 0, 2]]]

  def test_hold(self):
    ids = clip(frame('1..2'), frame('.1.2'), frame('..12'))
    held = trajectory_edits.hold(ids, 1, 1)
    assert held.tolist() == [[[1, 0, 0, 2]], [[0, 1, 0, 2]], [[0, 1, 0, 2]]]

  def test_delete(self):
    ids = clip(frame('1..2'))
    assert trajectory_edits.delete(ids, 1).tolist() == [[[0, 0, 0, 2]]]
    assert ids[0, 0, 0] == 1

  @pytest.mark.parametrize(
    'edit, message',
    [
      (lambda ids: untyped.delete(ids, 2), r'no object 2 \(its objects: 1\)'),
      (lambda ids: untyped.delete(ids, 0), 'no object 0'),
      (lambda ids: untyped.delete(0 * ids, 1), r'no object 1 \(its objects: none\)'),
      (lambda ids: untyped.delete(ids[0], 1), r'\[T, H, W\]'),
      (lambda ids: untyped.translate(ids, 1, [(0, 0)] * 2), '2 entries for 3 frames'),
      (lambda ids: untyped.translate(ids, 1, [1, 2, 3]), r'the path .*\(x, y\) pair'),
      (lambda ids: untyped.translate(ids, 1, [(0, 0), (1,), (2, 2)]), 'pair'),
      (lambda ids: untyped.translate(ids, 1, [(0, np.nan)] * 3), 'finite'),
      (lambda ids: untyped.translate(ids, 1, {}), 'no key points'),
      (lambda ids: untyped.translate(ids, 1, {3: (0, 0)}), 'at frame 3; .* 0 to 2'),
      (lambda ids: untyped.translate(ids, 1, {0.5: (0, 0)}), 'at frame 0.5'),
      (lambda ids: untyped.scale(ids, 1, 2), 'a number'),
      (lambda ids: untyped.scale(ids, 1, [1, 0, 1]), 'by 0; factors must be above 0'),
      (lambda ids: untyped.retime(ids, 1, [0, 1, 3]), 'no frame 3; .* 0 to 2'),
      (lambda ids: untyped.retime(ids, 1, {0: -1, 2: 0}), 'no frame -1'),
      (lambda ids: untyped.hold(ids, 1, 3), 'no frame 3'),
      (lambda ids: untyped.hold(np.where([[[1]], [[0]], [[0]]], ids, 0), 1, 2), 'frame 2'),
    ],
  )
  def test_bad_input(self, edit, message):
    with pytest.raises(InputError, match=message):
      edit(self.square.astype(np.uint8))


class TestCorrupt:
  def test_radii_and_first_frame(self):
    ids = np.zeros((8, 40, 40), np.uint8)
    ids[:, 12:28, 12:28] = 5
    radii = set()
    for seed in range(40):
      changed = trajectory_edits.corrupt(np.random.default_rng(seed), ids)
      assert (changed[0] == ids[0]).all()
      box = trajectory.boxes(changed)[1:, 4]
      seen = box[box[:, 2] > 0]
      assert (seen == seen[0]).all(), 'one radius through the clip'
      radius = 12 - int(seen[0, 0])
      assert seen[0].tolist() == [12 - radius, 12 - radius, 28 + radius, 28 + radius]
      assert (changed[1:] == 5).sum() == len(seen) * (16 + 2 * radius) ** 2, 'a square'
      radii.add(radius)
    assert radii == set(range(-3, 4))

  def test_frames_are_dropped_for_each_object_by_itself(self):
    ids = np.ones((2001, 2, 4), np.uint8)
    ids[:, :, 2:] = 2
    changed = trajectory_edits.corrupt(np.random.default_rng(0), ids)
    lost = trajectory.areas(changed)[1:, 1:3] == 0
    assert (abs(lost.mean(0) - 0.05) < 0.015).all()
    assert lost.all(1).mean() < 0.01

  def test_small_objects_and_borders_survive_erosion(self):
    ids = np.zeros((30, 20, 20), np.uint8)
    ids[:, :, :10] = 1
    ids[:, 4, 15] = 2
    for seed in range(10):
      areas = trajectory.areas(trajectory_edits.corrupt(np.random.default_rng(seed), ids))
      assert set(areas[:, 1].tolist()) <= {0, *range(20 * 7, 20 * 13 + 1)}
      assert set(areas[:, 2].tolist()) <= {0, 1, 9, 25, 49, 40}
      assert (areas[:, 2] > 0).mean() > 0.7
