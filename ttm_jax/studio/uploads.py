"""Read images and masks that users upload, within limits; only their pixels are kept."""

import contextlib
import re
import tempfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.inference.request import fit
from ttm_jax.media.images import open_image, to_rgb
from ttm_jax.media.label_images import read_mask_image
from ttm_jax.trajectory import PALETTES

MOST_BYTES = 64 * 2**20
MOST_PIXELS = 50_000_000
LONGEST_SIDE = 16_384
SHORTEST_SIDE = 16


def safe_name(name: str | None) -> str:
  """Return the last part of an uploaded file's name, with plain characters only, to show it."""
  last = re.split(r'[\\/]', name or '')[-1]
  return re.sub(r'[^\w. ()-]', '_', last)[-80:].strip() or 'the file'


def read_picture(content: bytes, name: str, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
  """Return an uploaded image, resized and cropped, uint8 [height, width, 3], and notes about it.

  Args:
    content: The file.
    name: Its name, for messages.
    size: (height, width) of the networks.

  Raises:
    InputError: If it is not an image, damaged, too large or too small.
  """
  notes: list[str] = []
  with _opened(content, name) as image:
    animated = getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO'
    try:
      pixels = to_rgb(image, notes, name)
    except InputError:
      raise
    except Exception as error:  # Decoders raise many types of exceptions.
      raise InputError(f'{name}: damaged, or not an image; use PNG or JPEG') from error
  if animated:
    notes.append(f'{name} is animated: its first frame is used')
  height, width = pixels.shape[:2]
  if (height, width) != size:
    notes.append(f'{name}: resized and cropped from {width} x {height} to {size[1]} x {size[0]}')
  return fit(pixels, *size), notes


def read_mask(content: bytes, name: str, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
  """Return an uploaded mask, resized and cropped, uint8 [height, width], and notes about it.

  Args:
    content: The file, an image of any form that `label_images` reads.
    name: Its name, for messages.
    size: (height, width) of the networks.

  Raises:
    InputError: If it is not an image, its interpretation is ambiguous, or it has no object.
  """
  notes: list[str] = []
  with _opened(content, name) as image:
    if getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO':
      raise InputError(f'{name}: holds several pictures; save the mask as one, or import a clip')
    try:
      ids = read_mask_image(image, PALETTES['spread8'], name, notes)
    except InputError:
      raise
    except Exception as error:
      raise InputError(f'{name}: damaged, or not an image; save the mask as PNG') from error
  if not ids.any():
    raise InputError(f'{name} shows no object; give each object a number, 1 to 8, as its value')
  height, width = ids.shape
  if abs(height * size[1] - width * size[0]) > max(height, width) * max(size) / 50:
    notes.append(
      f'{name} is {width} x {height}, of another shape than the picture: check that the objects are'
      ' in place'
    )
  fitted = fit(ids, *size, nearest=True)
  if not fitted.any():
    raise InputError(f'{name}: no object is left after cropping to {size[1]} x {size[0]}')
  return fitted, notes


@contextlib.contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
  """Open an uploaded image; its pixels are decoded on access, within the limits.

  Raises:
    InputError: If it is not an image, too large or too small; the message shows `name`.
  """
  with tempfile.NamedTemporaryFile(prefix='ttm-studio') as file:
    file.write(content)
    file.flush()
    try:
      with open_image(file.name) as image:
        width, height = image.size
        if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
          raise InputError(
            f'{name}: has {width} x {height} pixels; scale it down to {LONGEST_SIDE} a side and'
            f' {MOST_PIXELS // 10**6} megapixels at most'
          )
        if min(width, height) < SHORTEST_SIDE:
          raise InputError(
            f'{name}: has {width} x {height} pixels; each side must have {SHORTEST_SIDE} at least'
          )
        yield image
    except InputError as error:
      raise InputError(str(error).replace(file.name, name)) from error
