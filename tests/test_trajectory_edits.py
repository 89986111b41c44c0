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


class TestMotion:
  """Edits of the whole motion of an object."""

  square = clip(*[frame('......', '.11...', '.11...', '......')] * 3)

  def test_follow_a_path_from_the_centroid(self):
    # The path may be drawn anywhere: it is shifted to begin at the object.
    moved = trajectory_edits.follow(self.square, 1, [(10, 10), (12, 10), (12, 11)])
    assert (moved[0] == self.square[0]).all()
    assert (moved[1] == frame('......', '...11.', '...11.', '......')).all()
    assert (moved[2] == frame('......', '......', '...11.', '...11.')).all()

  def test_follow_replaces_the_motion_but_not_the_shape(self):
    ids = clip(frame('1.....'), frame('...11.'), frame('....1.'))
    moved = trajectory_edits.follow(ids, 1, [(0, 0), (2, 0)])
    assert moved.tolist()[0] == [[1, 0, 0, 0, 0, 0]]
    assert moved[1].sum() == 2 and moved[2].tolist() == [[0, 0, 1, 0, 0, 0]]

  def test_after_the_path_the_object_goes_on_from_there(self):
    ids = clip(*[frame('.' * t + '1' + '.' * (7 - t)) for t in range(5)])
    moved = trajectory_edits.follow(ids, 1, [(0, 0), (3, 0)], start=1, stop=2)
    assert [m[0].argmax() for m in moved] == [0, 1, 4, 5, 6]

  def test_follow_with_a_speed_curve(self):
    ids = clip(*[frame('1........')] * 5)
    moved = trajectory_edits.follow(ids, 1, [(0, 0), (8, 0)], speed=[(0, 0), (0.5, 0.25), (1, 1)])
    assert moved[2, 0].argmax() == 2 and moved[4, 0].argmax() == 8

  def test_rotate_by_right_angles(self):
    ids = clip(*[frame('.....', '.111.', '...1.', '.....', '.....')] * 5)
    turned = trajectory_edits.rotate(ids, 1, [0, 90, 180, 270, 360])
    assert (turned[0] == ids[0]).all() and (turned[4] == ids[0]).all()
    assert turned.sum(axis=(1, 2)).tolist() == [4] * 5
    # Clockwise: what was to the left is on top.
    plus = clip(frame('..1..', '..1..', '11111', '.....', '..1..'))
    assert (trajectory_edits.rotate(plus, 1, {0: 90})[0] == np.rot90(plus[0], -1)).all()

  def test_a_full_turn_of_a_random_object_is_the_identity(self):
    rng = np.random.default_rng(0)
    ids = np.zeros((4, 24, 24), np.uint8)
    ids[:, 8:16, 8:16] = rng.integers(0, 2, (4, 8, 8))
    assert (trajectory_edits.rotate(ids, 1, {0: 360}) == ids).all()

  def test_flip_within_the_box(self):
    ids = clip(*[frame('......', '.1....', '.111..')] * 2)
    mirrored = trajectory_edits.flip(ids, 1)
    assert (mirrored[0] == frame('......', '...1..', '.111..')).all()
    upside = trajectory_edits.flip(ids, 1, 'vertical', start=1)
    assert (upside[0] == ids[0]).all() and (upside[1] == frame('......', '.111..', '.1....')).all()
    assert (trajectory_edits.flip(mirrored, 1) == ids).all()

  def test_pin_to_a_frame(self):
    ids = clip(frame('1..2'), frame('.1.2'), frame('..12'))
    assert (trajectory_edits.pin(ids, 1, 1) == clip(*[frame('.1.2')] * 3)).all()

  def test_the_camera_moves_what_is_pinned(self):
    ids = clip(*[frame('.....', '.1.2.', '.....')] * 3)
    panned = trajectory_edits.camera(ids, [1], pan={0: (0, 0), 2: (-2, 0)})
    assert panned[:, 1].tolist() == [[0, 1, 0, 2, 0], [1, 0, 0, 2, 0], [0, 0, 0, 2, 0]]
    zoomed = trajectory_edits.camera(ids, [1, 2], zoom={0: 1, 2: 3})
    assert (zoomed[0] == ids[0]).all() and (zoomed[2] == frame(*['1...2'] * 3)).all()
    assert (trajectory_edits.camera(ids, [1, 2]) == ids).all()

  def test_hide_so_that_it_enters_and_leaves(self):
    ids = clip(*[frame('1.2')] * 4)
    hidden = trajectory_edits.hide(ids, 1, 1, 2)
    assert [m[0, 0] for m in hidden] == [1, 0, 0, 1] and (hidden[:, 0, 2] == 2).all()
    assert [m[0, 0] for m in trajectory_edits.hide(ids, 1, 2)] == [1, 1, 0, 0]

  def test_duplicate(self):
    ids = clip(frame('1...'), frame('.1..'))
    twice = trajectory_edits.duplicate(ids, 1, 3, (2, 0))
    assert twice.tolist() == [[[1, 0, 3, 0]], [[0, 1, 0, 3]]]

  def test_repaint_frames(self):
    ids = clip(*[frame('1.2')] * 3)
    mask = np.array([[False, True, False]])
    assert trajectory_edits.repaint(ids, 1, mask, 1).tolist() == [
      [[1, 0, 2]],
      [[0, 1, 2]],
      [[1, 0, 2]],
    ]
    added = trajectory_edits.repaint(ids, 4, mask, 1, 2)
    assert added.tolist() == [[[1, 0, 2]], [[1, 4, 2]], [[1, 4, 2]]]

  def test_fit_to_boxes(self):
    ids = clip(*[frame('1.....', '11....', '......', '......')] * 3)
    fitted = trajectory_edits.fit_boxes(ids, 1, {0: (0, 0, 2, 2), 2: (2, 0, 6, 4)})
    assert (fitted[0] == ids[0]).all()
    assert (fitted[2] == frame('..11..', '..11..', '..1111', '..1111')).all()
    assert trajectory.boxes(fitted)[1, 0].tolist() == [1, 0, 4, 3]
    new = trajectory_edits.fit_boxes(ids, 2, [(3, 1, 5, 3)] * 3)
    assert (new[1] == frame('1.....', '11.22.', '...22.', '......')).all()

  @pytest.mark.parametrize(
    'edit, message',
    [
      (lambda ids: untyped.follow(ids, 1, [(0, 0)], 3), 'no frame 3'),
      (lambda ids: untyped.follow(ids, 1, [(0, 0)], 2, 1), 'must not be before'),
      (lambda ids: untyped.follow(untyped.hide(ids, 1, 0, 1), 1, [(0, 0)], 1), 'does not show'),
      (lambda ids: untyped.rotate(ids, 1, {0: np.nan}), 'finite'),
      (lambda ids: untyped.flip(ids, 1, 'both'), 'horizontal or vertical'),
      (lambda ids: untyped.pin(ids, 1, 9), 'no frame 9'),
      (lambda ids: untyped.camera(ids, [], {0: (0, 0)}), 'pin those'),
      (lambda ids: untyped.camera(ids, [1], zoom={0: 0}), 'above 0'),
      (lambda ids: untyped.camera(ids, [2]), 'no object 2'),
      (lambda ids: untyped.hide(ids, 1, 1, 5), 'no frame 5'),
      (lambda ids: untyped.duplicate(ids, 1, 1), 'free number'),
      (lambda ids: untyped.duplicate(ids, 1, 9), 'free number'),
      (lambda ids: untyped.repaint(ids, 1, np.zeros((2, 2), bool), 0), 'must be bool'),
      (lambda ids: untyped.repaint(ids, 9, np.zeros((4, 6), bool), 0), 'no object 9'),
      (lambda ids: untyped.fit_boxes(ids, 1, {0: (3, 0, 2, 2)}), 'is empty'),
      (lambda ids: untyped.fit_boxes(ids, 1, {0: (3, 0, 2)}), 'at every place'),
    ],
  )
  def test_bad_input(self, edit, message):
    with pytest.raises(InputError, match=message):
      edit(self.square.astype(np.uint8))


class TestLayers:
  ids = clip(frame('1122'), frame('1122'))

  def test_split_and_merge_are_inverse(self):
    layers = trajectory_edits.split(self.ids)
    assert sorted(layers) == [1, 2] and (trajectory_edits.merge(layers) == self.ids).all()

  def test_what_was_covered_comes_back(self):
    layers = trajectory_edits.split(self.ids)
    layers[2] = trajectory_edits.translate(layers[2], 2, {0: (-1, 0)})
    over = trajectory_edits.merge(layers)
    assert over[0].tolist() == [[1, 2, 2, 0]]
    layers[2] = trajectory_edits.translate(layers[2], 2, {0: (1, 0)})
    assert (trajectory_edits.merge(layers) == self.ids).all()

  def test_the_default_order_is_by_size(self):
    layers = trajectory_edits.split(clip(frame('1112..'), frame('111222')))
    order = trajectory_edits.depth_order(layers)
    assert order.tolist() == [[1, 2], [1, 2]]
    assert trajectory_edits.depth_order({2: layers[2] * 0, 1: layers[1]}).tolist() == [[1, 2]] * 2

  def test_change_depth(self):
    order = np.tile(np.array([1, 2, 3], np.uint8), (4, 1))
    change = trajectory_edits.change_depth
    assert change(order, 1, 'front').tolist() == [[2, 3, 1]] * 4
    assert change(order, 3, 'back', 1, 2).tolist() == [[1, 2, 3], [3, 1, 2], [3, 1, 2], [1, 2, 3]]
    assert change(order, 1, 'forward')[0].tolist() == [2, 1, 3]
    assert change(order, 1, 'backward')[0].tolist() == [1, 2, 3]
    assert order.tolist() == [[1, 2, 3]] * 4, 'the argument stays'

  def test_merge_in_an_order_of_its_own(self):
    both = {1: clip(frame('11.')), 2: clip(frame('.22'))}
    for line, expected in (([1, 2], [1, 2, 2]), ([2, 1], [1, 1, 2])):
      merged = trajectory_edits.merge(both, np.array([line], np.uint8))
      assert merged[0, 0].tolist() == expected

  def test_bad_input(self):
    layers = trajectory_edits.split(self.ids)
    order = trajectory_edits.depth_order(layers)
    with pytest.raises(InputError, match='no depth step'):
      untyped.change_depth(order, 1, 'top')
    with pytest.raises(InputError, match='no object 7'):
      trajectory_edits.change_depth(order, 7, 'front')
    with pytest.raises(InputError, match='in every frame'):
      trajectory_edits.merge(layers, order[:, :1])
    with pytest.raises(InputError, match='of one size'):
      trajectory_edits.merge({1: self.ids, 2: self.ids[:1]})
    with pytest.raises(InputError, match='none'):
      trajectory_edits.merge({})
