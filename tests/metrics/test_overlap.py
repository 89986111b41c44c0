"""IoU of bounding boxes, and groups by the number of objects."""

import numpy as np
import pytest

from tests.helpers.metric_samples import label_maps, sample
from ttm_jax.metrics.overlap import box_iou, by_number_of_objects


def test_boxes_not_masks_are_compared():
  truth = np.zeros((2, 12, 20), np.uint8)
  truth[:, 2:6, 4:12] = 1
  ring = truth.copy()
  ring[:, 3:5, 5:11] = 0  # A hole changes the mask, not the box.
  assert box_iou(ring, truth) == 1
  shifted = np.roll(truth, 2, axis=2)  # 6 of 8 columns remain.
  assert box_iou(shifted, truth) == pytest.approx(6 / 10)
  shifted[1] = 0  # Lost in one of two frames.
  assert box_iou(shifted, truth) == pytest.approx(3 / 10)
  truth[1] = 0  # The trajectory does not show it there either.
  assert box_iou(shifted, truth) == pytest.approx(6 / 10)
  assert np.isnan(box_iou(ring, np.zeros_like(truth)))


def test_objects_count_alike_whatever_their_size():
  truth = np.zeros((1, 20, 40), np.uint8)
  truth[0, :16, :20], truth[0, 18:, 30:32], pred = 1, 4, None
  pred = np.where(truth == 4, 0, truth)
  assert box_iou(pred, truth) == pytest.approx(0.5)


def test_groups_by_number_of_objects():
  samples = [sample(ids=label_maps(2, (20, 140), n), frames=2) for n in (2, 0, 7, 2, 1, 6, 5)]
  groups = {name: found.tolist() for name, found in by_number_of_objects(samples).items()}
  assert groups == {'1': [4], '2': [0, 3], '5': [6], '>5': [2, 5]}
  given = sample(trajectory=label_maps(2, (20, 140), 3))  # The trajectory counts, not the clip.
  assert list(by_number_of_objects([given])) == ['3']
