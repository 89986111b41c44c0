"""Read pictures of every usual kind as uint8 RGB: the one place that opens image files.

Files and PIL images go through the same conversion:

- Pictures are turned upright as their EXIF data says.
- Deep grey pictures (16, 12 or 32 bits, float) are scaled to 8 bits by the range of their format.
- Transparent pixels are laid over white, as viewers show them. The colors that a file keeps under
  full transparency are arbitrary and never shown.
- Of animations the first picture counts.

Only formats of `FORMATS` are opened. Pillow would hand others, such as PostScript, to external
programs, whatever the name of the file says.
"""

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]

FORMATS = (
  *('PNG', 'JPEG', 'MPO', 'WEBP', 'AVIF', 'GIF', 'BMP', 'DIB', 'TIFF', 'PPM'),
  *('JPEG2000', 'TGA', 'PCX', 'SGI', 'ICO', 'ICNS', 'PSD', 'QOI', 'DDS', 'HEIF'),
)
"""Formats that are read, by their names in Pillow; none of them runs another program."""

MAX_PIXELS = 2**29
"""The largest picture that is read. Cameras take up to 200 megapixels."""

_FRAMES = (('.jpg', '.jpeg', '.png'), ('.webp', '.bmp', '.tif', '.tiff', '.avif'))

_LOCK = threading.Lock()


def read_image(path: PathLike, notes: list[str] | None = None) -> np.ndarray:
  """Return a picture file as uint8 [H, W, 3], upright, with transparent pixels white.

  Args:
    path: a file of one of `FORMATS`.
    notes: receives a sentence for what changes how the picture looks, for the user to read.

  Raises:
    InputError: the file is missing, not a picture, damaged, or larger than `MAX_PIXELS`.
  """
  with open_image(path) as image:
    try:
      return to_rgb(image, notes, str(path))
    except InputError:
      raise
    except Exception as error:  # Decoders have errors for everything.
      raise InputError(f'{path}: not a readable picture; use PNG or JPEG') from error


@contextlib.contextmanager
def open_image(path: PathLike, remedy: str = 'use PNG or JPEG') -> Iterator[Image.Image]:
  """Open a picture file; its pixels are decoded when they are asked for.

  Args:
    path: a file of one of `FORMATS`.
    remedy: what to do about a file that is no picture, for the error.

  Raises:
    InputError: the file is missing, not of one of `FORMATS`, or larger than `MAX_PIXELS`.
  """
  with contextlib.ExitStack() as stack:
    try:
      image = stack.enter_context(_opened(path))
    except FileNotFoundError as error:
      raise InputError(f'{path}: there is no such picture; check the path') from error
    except Exception as error:
      raise InputError(f'{path}: {_hint(path) or f"not a readable picture; {remedy}"}') from error
    if image.width * image.height > MAX_PIXELS:
      raise InputError(f'{path}: has more than {MAX_PIXELS / 1e6:.0f} megapixels; scale it down')
    yield image


def to_rgb(
  image: Image.Image, notes: list[str] | None = None, name: str = 'the picture'
) -> np.ndarray:
  """Return a PIL image as uint8 [H, W, 3], as `read_image` does a file.

  Args:
    image: of any mode.
    notes: as in `read_image`.
    name: of the picture, for notes and errors.

  Raises:
    InputError: the image has values whose range is not known.
  """
  # The depth is noted at the file, which a turned copy has lost.
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
  """Return whether an image can have transparent pixels, by a channel or by a marked color."""
  return image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info


def straight(image: Image.Image) -> Image.Image:
  """Return an image whose colors are not multiplied by their opacity."""
  plain = {'La': 'LA', 'RGBa': 'RGBA'}.get(image.mode)
  return image.convert(plain) if plain else image


def list_pictures(folder: Path) -> list[Path]:
  """Return the pictures of a folder that is read as a video, by the numbers in their names.

  JPEG and PNG files where there are some, else other formats. Files that systems leave, such as
  ._00000.jpg, are passed over.
  """
  files = [f for f in folder.iterdir() if not is_clutter(f)]
  for suffixes in _FRAMES:
    if found := [f for f in files if f.suffix.lower() in suffixes]:
      return sorted_by_number(found)
  return []


def sorted_by_number(files: Iterable[Path]) -> list[Path]:
  """Return paths in the order of the numbers in their names: frame10 after frame9."""

  def key(file: Path) -> list[tuple[int, int, str]]:
    parts = [part for part in re.split(r'(\d+)', file.name) if part]
    return [(0, int(p), '') if p.isdecimal() else (1, 0, p) for p in parts]

  return sorted(files, key=key)


def is_clutter(path: Path) -> bool:
  """Return whether a file or folder is left by a system, not by a person: ._x, __MACOSX, @eaDir."""
  return path.name.startswith(('.', '@')) or path.name in ('__MACOSX', '__pycache__')


@functools.cache
def _formats() -> list[str]:
  """Those of `FORMATS` that the installed Pillow knows: it fails at the name of any other."""
  Image.init()
  return [name for name in FORMATS if name in Image.OPEN]


def _opened(path: PathLike) -> Image.Image:
  formats = _formats()
  # Pillow has one limit for the whole process, below the size of the largest photos. Opening reads
  # the header only, so others hardly wait.
  with _LOCK:
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
      return Image.open(path, formats=formats)
    finally:
      Image.MAX_IMAGE_PIXELS = before


def _hint(path: PathLike) -> str:
  """What to say of a file of a known kind that is not read, or an empty string."""
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
  """The bits of a deep grey picture, and whether 0 is white."""
  tags = getattr(image, 'tag_v2', {})
  bits = tags.get(258, (16,))
  bits = bits[0] if isinstance(bits, tuple) else bits
  return int(bits), tags.get(262) == 0


def _eight_bits(
  values: np.ndarray, image: Image.Image, depth: tuple[int, bool], name: str
) -> np.ndarray:
  """Grey values of a deep picture as uint8 of the same shape."""
  bits, inverted = depth
  low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
  if not 0 <= low <= high < np.inf:  # Also false for NaN.
    raise InputError(
      f'{name}: has grey values from {low:g} to {high:g}, of no known range; save it in 8 bits'
    )
  if image.mode == 'F':
    top = 1.0 if high <= 1 else 255.0
  elif image.mode == 'I':
    # PNG and PGM of 16 bits come so from some versions; else nothing states the range.
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
