"""Optical flow as colors: a trajectory without objects, the ablation of the paper's table 4.

The paper does not say how it renders flow. Here, hue is the direction, saturation the length, and
white is no motion, as usual. The scale is fixed, so that a color means one motion in all clips of a
size. Frame t of a flow trajectory shows the motion from frame t - 1 to t, at the pixels of frame
t - 1. Frame 0 shows none, so that it is known before anything is generated.
"""

import numpy as np

from ttm_jax.trajectory import check_ids

# Length with full saturation: the shorter side of the video over this. Longer flows look equal.
_FULL = 16


def render(flow: np.ndarray, longest: float | None = None) -> np.ndarray:
  """Render a flow as RGB: direction as hue, length as saturation; zero flow is white.

  Args:
    flow: float [T, H, W, 2], (x, y) in pixels.
    longest: length with full saturation, in pixels; by default the maximum of `flow`.

  Returns:
    uint8 [T, H, W, 3].
  """
  length = np.linalg.norm(flow, axis=-1)
  limit = longest or float(length.max(initial=0)) or 1.0
  strength = np.minimum(length / limit, 1)[..., None]
  hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
  # Hue to RGB as in HSV: red at 0, green at 1/3, blue at 2/3.
  offset = (hue[..., None] * 6 + np.array([0, 4, 2])) % 6
  pure = np.clip(np.abs(offset - 3) - 1, 0, 1)
  return np.rint(255 * (1 - strength + strength * pure)).astype(np.uint8)


def as_trajectory(flow: np.ndarray) -> np.ndarray:
  """Return the trajectory of a clip of T frames.

  Args:
    flow: float [T - 1, H, W, 2], from each frame to the next, (x, y) in pixels.

  Returns:
    RGB, uint8 [T, H, W, 3].
  """
  _, height, width, _ = flow.shape
  still = np.zeros((1, height, width, 2), flow.dtype)
  return render(np.concatenate([still, flow]), min(height, width) / _FULL)


def of_labels(ids: np.ndarray) -> np.ndarray:
  """Return the flow of objects that move without changing their shape.

  All pixels of an object move as its centroid does. The background, and objects that the next frame
  does not show, do not move.

  Args:
    ids: label maps, uint8 [T, H, W].

  Returns:
    float32 [T - 1, H, W, 2], (x, y) in pixels.

  Raises:
    InputError: If `ids` is not a label map.
  """
  check_ids(ids)
  count, height, width = ids.shape
  flow = np.zeros((count - 1, height, width, 2), np.float32)
  for obj in np.unique(ids[ids > 0]):
    mask = ids == obj
    area = mask.sum((1, 2))
    centers = np.stack([mask.sum(1) @ np.arange(width), mask.sum(2) @ np.arange(height)], -1)
    centers = centers / np.maximum(area, 1)[:, None]
    moved = np.where((area[1:] > 0)[:, None], np.diff(centers, axis=0), 0)
    flow += mask[:-1, ..., None] * moved[:, None, None].astype(np.float32)
  return flow
