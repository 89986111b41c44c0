"""Square crops of the objects of a frame, for image encoders."""

import numpy as np

from ttm_jax.trajectory import boxes

# The mean color of CLIP's training images: it becomes 0 in the network's input.
BLANK = np.array([123, 117, 104], np.uint8)


def object_crop(frame: np.ndarray, mask: np.ndarray, blank: bool = False) -> np.ndarray:
  """Return the smallest square around an object.

  The square is centered on the object's box, so that the center crop of an image processor cuts
  nothing off. What is outside of the frame has the color `BLANK`.

  Args:
    frame: uint8 [H, W, 3].
    mask: bool [H, W], not empty.
    blank: whether to give all pixels outside of the mask the color `BLANK`, too.

  Returns:
    uint8 [S, S, 3].
  """
  x0, y0, x1, y1 = boxes(mask[None].astype(np.uint8), 1)[0, 0].tolist()
  shown = frame[y0:y1, x0:x1]
  side = max(y1 - y0, x1 - x0)
  crop = np.full((side, side, 3), BLANK)
  top, left = (side - (y1 - y0)) // 2, (side - (x1 - x0)) // 2
  if blank:
    inside = mask[y0:y1, x0:x1, None]
    crop[top : top + y1 - y0, left : left + x1 - x0] = np.where(inside, shown, BLANK)
    return crop
  # Fill the square from the frame where it can be.
  first, start = y0 - top, x0 - left
  rows = slice(max(first, 0), min(first + side, frame.shape[0]))
  columns = slice(max(start, 0), min(start + side, frame.shape[1]))
  crop[rows.start - first : rows.stop - first, columns.start - start : columns.stop - start] = (
    frame[rows, columns]
  )
  return crop
