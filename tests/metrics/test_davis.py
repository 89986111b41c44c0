"""J and F of masks: known values, and an independent implementation of the definition."""

import math

import numpy as np
import pytest

from ttm_jax.errors import InputError
from ttm_jax.metrics.davis import boundary, boundary_accuracy, region_similarity


def square(size=(64, 80), top=20, left=20, side=16):
  mask = np.zeros(size, bool)
  mask[top : top + side, left : left + side] = True
  return mask


def edges(mask):
  """Return the boundary pixels [(y, x)], one neighbor after another."""
  height, width = mask.shape
  found = []
  for y in range(height):
    for x in range(width):
      others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
      if any(j < height and i < width and mask[j, i] != mask[y, x] for j, i in others):
        found.append((y, x))
  return np.array(found, float).reshape(-1, 2)


def brute_force(pred, truth, tolerance=0.008):
  """Return F from the distance of every boundary pixel to every other."""
  radius = math.ceil(tolerance * math.hypot(*pred.shape))
  a, b = edges(pred), edges(truth)
  if not len(a) or not len(b):
    return float(len(a) == len(b))
  distance = np.linalg.norm(a[:, None] - b, axis=-1)
  precision, recall = (distance.min(1) <= radius).mean(), (distance.min(0) <= radius).mean()
  return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blobs(seed, size=(40, 56)):
  """Return bool [H, W]: random shapes with holes and parts at the edge of the image."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[: size[0], : size[1]]
  mask = np.zeros(size, bool)
  for _ in range(4):
    center, radius = rng.uniform((0, 0), size), rng.uniform(3, 14)
    mask ^= np.hypot(y - center[0], x - center[1]) < radius
  return mask


@pytest.mark.parametrize('seed', range(6))
def test_independent_implementation(seed):
  pred, truth = blobs(seed), blobs(seed) ^ blobs(seed + 100) if seed % 2 else blobs(seed + 100)
  for tolerance in (0.008, 0.05):
    found = boundary_accuracy(pred[None], truth[None], tolerance)[0]
    assert found == pytest.approx(brute_force(pred, truth, tolerance), abs=1e-12)
  assert np.argwhere(boundary(pred)).tolist() == edges(pred).tolist()
  j = region_similarity(pred[None], truth[None])[0]
  assert j == pytest.approx((pred & truth).sum() / (pred | truth).sum(), abs=1e-12)


def test_shifted_mask():
  """A square of 16 pixels, moved by k: J is known, and F is 1 as long as the disk covers k."""
  truth = square()  # The diagonal is 102.4, so the disk has a radius of ceil(0.82) = 1.
  for k in range(17):
    pred = square(left=20 + k)
    both = 16 * (16 - k)
    assert region_similarity(pred[None], truth[None])[0] == both / (512 - both)
    found = boundary_accuracy(pred[None], truth[None])[0]
    if k <= 1:
      assert found == 1
    else:
      assert found == pytest.approx(brute_force(pred, truth)) and found < 1
  far = square(left=60)
  assert boundary_accuracy(far[None], truth[None])[0] == 0


def test_lost_frames_and_empty_masks():
  truth = np.stack([square(), square(), np.zeros((64, 80), bool), np.zeros((64, 80), bool)])
  pred = truth.copy()
  pred[1], pred[2] = False, square()
  for measure in (region_similarity, boundary_accuracy):
    assert measure(pred, truth).tolist() == [1, 0, 0, 1]
    assert measure(truth, pred).tolist() == [1, 0, 0, 1]


def test_masks_that_cannot_be_compared():
  mask = np.zeros((2, 4, 4), bool)
  for measure in (region_similarity, boundary_accuracy):
    with pytest.raises(InputError, match='must be bool'):
      measure(mask, mask.astype(np.uint8))
    with pytest.raises(InputError, match='of one shape'):
      measure(mask, mask[:1])
