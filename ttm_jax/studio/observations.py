"""What the studio says about a trajectory that the networks can not, or not quite, follow."""

import numpy as np

from ttm_jax.studio.motion import Motion


def notes(motion: Motion, mask: np.ndarray) -> list[str]:
  """Return sentences about the objects of a trajectory.

  Args:
    motion: The trajectory.
    mask: Objects of the picture, label map uint8 [H, W].
  """
  said = []
  for obj, layer in motion.layers.items():
    gone = spans(layer.area == 0)
    if not layer.area[0]:
      said.append(
        f'Object {obj} is not in frame 0: the video begins with the picture, and models saw no'
        ' object enter in training.'
      )
    elif (overlap := _iou(layer.first(), mask == obj)) < 0.9:
      said.append(
        f'Object {obj} in frame 0 is not where the picture has it (IoU {overlap:.2f}): the video'
        ' begins with the picture.'
      )
    if gone and gone != [[0, 0]]:
      listed = ', '.join(f'{a} to {b}' if b > a else f'{a}' for a, b in gone)
      said.append(f'Object {obj} is not visible in frames {listed}.')
  return said


def spans(flags: np.ndarray) -> list[list[int]]:
  """Return the first and last index of each run of true values of bool [T]."""
  edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
  return [[int(a), int(b) - 1] for a, b in edges.reshape(-1, 2)]


def _iou(a: np.ndarray, b: np.ndarray) -> float:
  return float((a & b).sum() / max(1, (a | b).sum()))
