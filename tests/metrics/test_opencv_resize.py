"""Bilinear resizing: checksums of OpenCV's own results, and the definition in floating point."""

import zlib

import numpy as np
import pytest

from ttm_jax.metrics.opencv_resize import resize_bilinear


def bilinear(image, side):
  """Return an image float [H, W, 3] interpolated between its four neighbors at each position."""

  def neighbors(size):
    place = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
    low = np.floor(place).astype(int)
    return low, np.minimum(low + 1, size - 1), place - low

  (top, bottom, v), (left, right, h) = neighbors(image.shape[0]), neighbors(image.shape[1])
  v, h = v[:, None, None], h[:, None]
  above = image[top][:, left] * (1 - h) + image[top][:, right] * h
  below = image[bottom][:, left] * (1 - h) + image[bottom][:, right] * h
  return above * (1 - v) + below * v


# CRC-32 of cv2.resize(image, (side, side)) by OpenCV 5.0.0.
GOLDEN = [
  ((37, 53), 24, 2916709932),
  ((48, 64), 64, 2615616391),
  ((48, 48), 24, 936087245),
  ((100, 60), 24, 762004366),
  ((480, 720), 224, 937859365),
]


@pytest.mark.parametrize('size, side, checksum', GOLDEN)
def test_opencv_gives_the_same_bits(size, side, checksum):
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  found = resize_bilinear(image, side)
  assert found.shape == (side, side, 3) and found.dtype == np.uint8
  assert zlib.crc32(found.tobytes()) == checksum
  assert np.abs(found - bilinear(image.astype(float), side)).max() <= 1


def test_same_size_and_plain_images():
  image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
  np.testing.assert_array_equal(resize_bilinear(image, 24), image)
  assert (resize_bilinear(np.full((31, 17, 3), 201, np.uint8), 24) == 201).all()
