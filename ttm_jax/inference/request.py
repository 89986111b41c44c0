"""Requests to animate an image, their resizing, and how a stage samples; no JAX, no PyTorch."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.media.label_images import check_size


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How one stage samples.

  Attributes:
    seed: Seed of the noise.
    steps: Number of sampling steps; None for the usual one.
    scales: Guidance scales by the names in `guidance_inputs.RANGES`, if the network takes them; the
      usual ones where there is none.
  """

  seed: int
  steps: int | None = None
  scales: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Request:
  """An image to animate, with its mask and prompts.

  Attributes:
    picture: uint8 [H, W, 3].
    mask: uint8 [H, W], object ids.
    caption: What the video shows.
    motion: What moves, and how.
    prompts: What each object does, by object id; objects without a prompt get an empty slot.

  Raises:
    InputError: If the sizes of image and mask differ, the caption is empty or the mask has no
      object. Also if a prompt refers to an object that is not in the mask.
  """

  picture: np.ndarray
  mask: np.ndarray
  caption: str
  motion: str
  prompts: Mapping[int, str]

  def __post_init__(self):
    check_size(self.picture, self.mask)
    if not self.caption.strip():
      raise InputError('the prompt is empty; say what the video shows (--prompt)')
    present = set(np.unique(self.mask).tolist()) - {0}
    if not present:
      raise InputError('the mask has no object: every pixel is 0; paint objects with 1 to 8')
    unknown = sorted(set(self.prompts) - present)
    if unknown:
      raise InputError(
        f'object {unknown[0]} has a prompt but no pixel in the mask, which has objects'
        f' {sorted(present)}'
      )

  def fitted(self, height: int, width: int) -> 'Request':
    """Return the request at another size; objects that are cropped away lose their prompts.

    Args:
      height: New height in pixels.
      width: New width in pixels.

    Raises:
      InputError: If no object is left.
    """
    mask = fit(self.mask, height, width, nearest=True)
    if not mask.any():
      raise InputError(f'no object is left in the mask after cropping to {width} x {height}')
    return Request(
      fit(self.picture, height, width),
      mask,
      self.caption,
      self.motion,
      {obj: text for obj, text in self.prompts.items() if (mask == obj).any()},
    )


def check_start(mask: np.ndarray, first: np.ndarray) -> str:
  """Compare frame 0 of a given trajectory with the segmentation of the image.

  Args:
    mask: Segmentation, uint8 [H, W].
    first: Frame 0 of the trajectory, uint8 [H, W].

  Returns:
    A message with the intersection over union (IoU) of each object that differs; empty if none
    differs.

  Raises:
    InputError: If the objects are numbered differently: two different ids have an IoU above 0.5,
      and above the IoU of the same id. Or if both appear to belong to different images: no object
      has an IoU of at least 0.1.
  """

  def iou(a: int, b: int) -> float:
    ours, theirs = mask == a, first == b
    return float((ours & theirs).sum() / max(1, (ours | theirs).sum()))

  objects = sorted({*np.unique(mask).tolist(), *np.unique(first).tolist()} - {0})
  same = {obj: iou(obj, obj) for obj in objects}
  for a in objects:
    for b in objects:
      if a != b and iou(a, b) > max(0.5, same[a]):
        raise InputError(
          f'object {a} of the segmentation is object {b} in frame 0 of the trajectory (IoU'
          f' {iou(a, b):.2f}): number the objects alike in both'
        )
  listed = ', '.join(f'object {obj} {value:.2f}' for obj, value in same.items() if value < 1)
  if objects and max(same.values()) < 0.1:
    raise InputError(
      f'frame 0 of the trajectory shows none of the objects where the segmentation has them (IoU'
      f' {listed}): give the trajectory of this picture, or its frame 0 as the segmentation'
    )
  return f'frame 0 of the trajectory differs from the segmentation: IoU {listed}' if listed else ''


def fit(picture: np.ndarray, height: int, width: int, nearest: bool = False) -> np.ndarray:
  """Resize an image so that it covers height x width, and crop the center.

  Args:
    picture: Image, uint8 [H, W, 3], or label map, uint8 [H, W].
    height: Output height in pixels.
    width: Output width in pixels.
    nearest: Whether to use nearest-neighbor resampling, for label maps, instead of Lanczos.

  Returns:
    uint8 [height, width, 3] or [height, width].
  """
  h, w = picture.shape[:2]
  factor = max(height / h, width / w)
  size = max(width, round(w * factor)), max(height, round(h * factor))
  how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
  resized = np.asarray(Image.fromarray(picture).resize(size, how))
  top, left = (size[1] - height) // 2, (size[0] - width) // 2
  return resized[top : top + height, left : left + width]
