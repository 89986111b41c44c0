"""The arguments of the pipeline: images, label maps, prompts and trajectories of users."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.inference.request import Request, fit
from ttm_jax.media.images import to_rgb
from ttm_jax.media.label_images import read_mask_image
from ttm_jax.trajectory import PALETTES

Pictures = Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray]
# (image, motion prompt) -> label map and object prompts, see `segmentation.Segmenter`.
Segment = Callable[[np.ndarray, str], tuple[np.ndarray, dict[int, str]]]


def requests_of(
  image: Any,
  prompt: Any,
  segmentation: Any,
  motion_prompt: Any,
  object_prompts: Any,
  size: tuple[int, int],
  segmenter: Segment | None,
) -> list[Request]:
  """Return one request per image, resized and cropped.

  Args:
    image, prompt, segmentation, motion_prompt, object_prompts: see `TTMPipeline.__call__`; each for
      all images, or a list with one entry per image.
    size: height and width of the networks.
    segmenter: makes the label maps that are not given.

  Raises:
    InputError: if an argument is invalid, or there are too few or too many entries.
  """
  images = image if isinstance(image, list | tuple) else [image]
  count = len(images)

  def each(value: Any, name: str) -> list:
    if not isinstance(value, list | tuple):
      return [value] * count
    if len(value) != count:
      raise InputError(f'{name} has {len(value)} entries for {count} pictures: give one each')
    return list(value)

  columns = zip(
    images,
    each(prompt, 'prompt'),
    each(segmentation, 'segmentation'),
    each(motion_prompt, 'motion_prompt'),
    each(object_prompts, 'object_prompts'),
    strict=True,
  )
  requests = []
  for picture, caption, mask, motion, prompts in columns:
    pixels = _rgb(picture)
    if mask is None:
      if segmenter is None:
        raise InputError(
          'no segmentation was given: pass the label map of the picture, or set'
          ' pipe.segmenter = Segmenter(detector, sam) to have the objects found'
        )
      mask, found = segmenter(pixels, motion or caption)
      prompts = found if prompts is None else prompts
    requests.append(
      Request(pixels, _labels(mask), caption, motion or caption, prompts or {}).fitted(*size)
    )
  return requests


def given_trajectory(trajectory: np.ndarray, count: int, video: Mapping[str, Any]) -> np.ndarray:
  """Return the user's trajectories as uint8 [B, T, H, W] at the size of the networks.

  Args:
    trajectory: uint8 [T, H, W] or [B, T, H, W].
    count: B, the number of images.
    video: frames, height and width of the networks.

  Raises:
    InputError: if the dtype or the shape is wrong.
  """
  ids = np.asarray(trajectory)
  ids = ids[None] if ids.ndim == 3 else ids
  if ids.ndim != 4 or ids.dtype != np.uint8:
    raise InputError(
      f'a trajectory must be uint8 [T, H, W] or [B, T, H, W], got {ids.dtype} {list(ids.shape)}'
    )
  if ids.shape[:2] != (count, video['frames']):
    raise InputError(
      f'the trajectory has {ids.shape[0]} clips of {ids.shape[1]} frames, needed are {count} of'
      f' {video["frames"]}'
    )
  size = video['height'], video['width']
  return np.stack([np.stack([fit(frame, *size, nearest=True) for frame in clip]) for clip in ids])


def _rgb(picture: Image.Image | np.ndarray) -> np.ndarray:
  """Return an image as uint8 [H, W, 3].

  A PIL image is rotated as its EXIF data says, and transparent pixels become white.

  Raises:
    InputError: if the input is neither a PIL image nor uint8 [H, W, 3].
  """
  if isinstance(picture, Image.Image):
    notes: list[str] = []
    pixels = to_rgb(picture, notes, 'image')
    _warn(notes)
    return pixels
  if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
    raise InputError('image must be a PIL picture or a uint8 array [H, W, 3]')
  if picture.shape[2] != 3:
    raise InputError(
      f'image has {picture.shape[2]} channels; give RGB, or a PIL picture, which is converted'
    )
  return picture


def _labels(mask: Image.Image | np.ndarray) -> np.ndarray:
  """Return a label map as uint8 [H, W]; PIL images are read as in `label_images`.

  Raises:
    InputError: if the input is neither a PIL image nor uint8 [H, W], or it is ambiguous.
  """
  if isinstance(mask, Image.Image):
    notes: list[str] = []
    mask = read_mask_image(mask, PALETTES['spread8'], 'segmentation', notes)
    _warn(notes)
  if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8 or mask.ndim != 2:
    raise InputError('segmentation must be a PIL picture or a uint8 array [H, W]')
  return mask


def _warn(notes: Sequence[str]) -> None:
  for note in notes:
    warnings.warn(note, stacklevel=2)
