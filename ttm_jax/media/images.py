"""Read image files of all common formats as uint8 RGB; no other module opens image files.

Files and PIL images are converted alike:

- EXIF orientation is applied.
- Gray images of 12, 16 or 32 bits or float are scaled to 8 bits from their format's value range.
- Transparent pixels are composited over white, as in image viewers. The colors that a file stores
  for fully transparent pixels are arbitrary and never shown.
- Of animations, the first frame is read.

Only the formats in `FORMATS` are opened. Pillow would pass others, such as PostScript, to external
programs, regardless of the file name.
"""

import contextlib
import functools
import io
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]

FORMATS = (
  *('PNG', 'JPEG', 'MPO', 'WEBP', 'AVIF', 'GIF', 'BMP', 'DIB', 'TIFF', 'PPM'),
  *('JPEG2000', 'TGA', 'PCX', 'SGI', 'ICO', 'ICNS', 'PSD', 'QOI', 'DDS', 'HEIF'),
)
"""Supported formats by their names in Pillow; none of them runs an external program."""

MAX_PIXELS = 2**29
"""Largest image accepted, in pixels. Cameras take up to 200 megapixels."""

_FRAMES = (('.jpg', '.jpeg', '.png'), ('.webp', '.bmp', '.tif', '.tiff', '.avif'))

_LOCK = threading.Lock()


def read_image(path: PathLike, notes: list[str] | None = None) -> np.ndarray:
  """Read an image file.

  Args:
    path: A file of one of `FORMATS`.
    notes: List that receives messages for the user about changes of the image's appearance.

  Returns:
    uint8 [H, W, 3], upright, with transparent pixels white.

  Raises:
    InputError: If the file is missing, not an image, damaged, or larger than `MAX_PIXELS`.
  """
  with open_image(path) as image:
    try:
      return to_rgb(image, notes, str(path))
    except InputError:
      raise
    except Exception as error:  # Decoders raise many types of exceptions.
      raise InputError(f'{path}: not a readable image; use PNG or JPEG') from error


@contextlib.contextmanager
def open_image(path: PathLike, remedy: str = 'use PNG or JPEG') -> Iterator[Image.Image]:
  """Open an image file; pixels are decoded on access.

  Args:
    path: A file of one of `FORMATS`.
    remedy: What to do if the file is not an image, for the error message.

  Yields:
    The image.

  Raises:
    InputError: If the file is missing, not of one of `FORMATS`, or larger than `MAX_PIXELS`.
  """
  with contextlib.ExitStack() as stack:
    try:
      image = stack.enter_context(_opened(path))
    except FileNotFoundError as error:
      raise InputError(f'{path}: there is no such image; check the path') from error
    except Exception as error:
      raise InputError(f'{path}: {_hint(path) or f"not a readable image; {remedy}"}') from error
    if image.width * image.height > MAX_PIXELS:
      raise InputError(f'{path}: has more than {MAX_PIXELS / 1e6:.0f} megapixels; scale it down')
    yield image


def to_rgb(
  image: Image.Image, notes: list[str] | None = None, name: str = 'the picture'
) -> np.ndarray:
  """Convert a PIL image as `read_image` converts a file.

  Args:
    image: An image of any mode.
    notes: As in `read_image`.
    name: Name of the image, for notes and error messages.

  Returns:
    uint8 [H, W, 3].

  Raises:
    InputError: If the value range of the image is unknown.
  """
  # Read the bit depth first: a transposed copy has lost the file's tags.
  depth = _depth(image)
  image = ImageOps.exif_transpose(image)
  if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
    values = np.asarray(image)
    grey = _eight_bits(values, image, depth, name)
    hidden = values == image.info.get('transparency')
    grey[hidden] = 255
    pixels, changed = np.repeat(grey[..., None], 3, axis=-1), bool(np.any(hidden))
  elif is_transparent(image):
    image = straight(image).convert('RGBA')
    changed = image.getchannel('A').getextrema() != (255, 255)
    white = Image.new('RGBA', image.size, 'white')
    pixels = np.asarray(Image.alpha_composite(white, image).convert('RGB'))
  else:
    return np.asarray(image.convert('RGB'))
  if changed and notes is not None:
    notes.append(f'{name}: transparent pixels became white')
  return pixels


def is_transparent(image: Image.Image) -> bool:
  """Return whether an image has an alpha channel or a transparent color."""
  return image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info


def straight(image: Image.Image) -> Image.Image:
  """Return an image with straight (not premultiplied) alpha."""
  plain = {'La': 'LA', 'RGBa': 'RGBA'}.get(image.mode)
  return image.convert(plain) if plain else image


def list_pictures(folder: Path) -> list[Path]:
  """Return the frame images of a folder, in the order of the numbers in their names.

  JPEG and PNG files are preferred; other formats are only read if there are none. Files created by
  operating systems, such as ._00000.jpg, are skipped.
  """
  files = [f for f in folder.iterdir() if not is_clutter(f)]
  for suffixes in _FRAMES:
    if found := [f for f in files if f.suffix.lower() in suffixes]:
      return sorted_by_number(found)
  return []


def sorted_by_number(files: Iterable[Path]) -> list[Path]:
  """Return paths in the order of the numbers in their names, so that frame10 is after frame9."""

  def key(file: Path) -> list[tuple[int, int, str]]:
    parts = [part for part in re.split(r'(\d+)', file.name) if part]
    return [(0, int(p), '') if p.isdecimal() else (1, 0, p) for p in parts]

  return sorted(files, key=key)


def is_clutter(path: Path) -> bool:
  """Return whether a path is created by an operating system: ._x, __MACOSX, @eaDir, ..."""
  return path.name.startswith(('.', '@')) or path.name in ('__MACOSX', '__pycache__')


@functools.cache
def _formats() -> list[str]:
  """Return the `FORMATS` of the installed Pillow version, which raises errors for unknown names."""
  Image.init()
  return [name for name in FORMATS if name in Image.OPEN]


def open_content(content: bytes, formats: Sequence[str]) -> Image.Image:
  """Return an image of the bytes of a file; its pixels are decoded when they are used.

  Args:
    content: the bytes.
    formats: the formats that are allowed, as Pillow names them.

  Raises:
    OSError, SyntaxError, ValueError: if it is no such image; further errors when it is decoded.
  """
  return _opened(io.BytesIO(content), list(formats))


def _opened(path: PathLike | io.BytesIO, formats: list[str] | None = None) -> Image.Image:
  formats = _formats() if formats is None else formats
  # Pillow has one pixel limit per process, below the size of the largest photos. Opening reads only
  # the header, so other threads hold the lock briefly.
  with _LOCK:
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
      return Image.open(path, formats=formats)
    finally:
      Image.MAX_IMAGE_PIXELS = before


def _hint(path: PathLike) -> str:
  """Return an explanation for an unsupported file of a known type, or an empty string."""
  try:
    with open(path, 'rb') as file:
      start = file.read(64)
  except OSError as error:
    return f'cannot be read ({error.strerror}); check the path'
  if start[4:8] == b'ftyp' and start[8:12] in (b'heic', b'heix', b'mif1', b'msf1', b'hevc'):
    return 'a HEIC picture, which is not read; convert it to JPEG or PNG'
  if start.startswith((b'%!PS', b'\xc5\xd0\xd3\xc6', b'%PDF')) or b'<svg' in start:
    return 'a vector graphic, not a picture of pixels; export it as PNG'
  return ''


def _depth(image: Image.Image) -> tuple[int, bool]:
  """Return the bits per pixel of a gray image above 8 bits, and whether 0 is white (TIFF)."""
  tags = getattr(image, 'tag_v2', {})
  bits = tags.get(258, (16,))
  bits = bits[0] if isinstance(bits, tuple) else bits
  return int(bits), tags.get(262) == 0


def _eight_bits(
  values: np.ndarray, image: Image.Image, depth: tuple[int, bool], name: str
) -> np.ndarray:
  """Scale gray values of an image above 8 bits to uint8 of the same shape."""
  bits, inverted = depth
  low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
  if not 0 <= low <= high < np.inf:  # Rejects NaN too.
    raise InputError(
      f'{name}: has grey values from {low:g} to {high:g}, of no known range; save it in 8 bits'
    )
  if image.mode == 'F':
    top = 1.0 if high <= 1 else 255.0
  elif image.mode == 'I':
    # Some Pillow versions return 16-bit PNG and PGM in this mode; otherwise the range is unknown.
    top = 65535.0 if high > 255 or image.format in ('PNG', 'PPM') else 255.0
  else:
    top = float(2 ** min(bits, 16) - 1)
  if high > top:
    raise InputError(
      f'{name}: has grey values up to {high:g}, of no known range; save it in 8 bits'
    )
  table = values.astype(np.float32) * np.float32(255 / top)
  if inverted:
    table = 255 - table
  return np.rint(table).astype(np.uint8)
