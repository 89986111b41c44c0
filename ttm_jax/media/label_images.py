"""Read label maps from mask images of any common format.

Masks may be stored as palette PNGs, gray levels, white on black, RGB colors, or 16-bit integers.
One rule is chosen for all images of a clip, based on all of their values. An object therefore has
the same label in every frame. The first rule that applies is used:

1. Gray images: the values are object ids. Values of 1, 2, 4 and 16 bits are used as stored.
2. Palette images whose used entries equal those of a known palette: the indices are ids. Known
   palettes are the one of this package, the one of PASCAL VOC and DAVIS, and gray levels.
3. Images in the colors of a known palette, in another order or as RGB: the palette's indices are
   ids.
4. Palette images of other colors: the indices are ids, if they have the same color in all images.
5. Other colors on black: each color is an object, numbered by first appearance, then by color.

Transparent pixels are background. White alone (or 1 in a 1-bit image) is object 1. 255 together
with object ids is the usual "ignore" label and becomes background. Ids of 1 to 8 are kept; ids
above 8 get the lowest free labels. Ambiguous masks are rejected. Notes report all conversions.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ttm_jax.errors import InputError
from ttm_jax.media.images import is_clutter, is_transparent, open_image, sorted_by_number, straight

SUFFIXES = (('.png',), ('.bmp',), ('.tif', '.tiff'), ('.gif',), ('.webp',), ('.jpg', '.jpeg'))
"""Lower-case suffixes of masks by format; of a folder, the first format that occurs is read."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
_VOID = 255  # Also represents the largest value of other bit depths.
_BLURRED = 32  # More values than this come from smoothing or lossy formats, not from objects.
_PHOTO = 255  # Images with more colors than this are photos.
_AS_PNG = 'save the mask as PNG'
_REMEDY = 'save it as PNG without smoothing, each pixel the number of its object, 1 to 8, or 0'

Color = tuple[int, int, int]


class Pixel(NamedTuple):
  """A distinct pixel value of an image.

  Attributes:
    value: Gray value as stored, or palette index; -1 in color images.
    color: R, G, B as displayed, 0 to 255; None for values that 8 bits cannot represent.
    alpha: Opacity, 0 to 255.
  """

  value: int
  color: Color | None
  alpha: int


@dataclasses.dataclass(frozen=True)
class Coded:
  """The pixels of one mask image, before they are mapped to labels.

  Attributes:
    keys: Integer array [H, W].
    pixels: The pixel value of each key that occurs.
    kind: 'grey', 'palette' or 'color'.
    lossy: Whether the file format is lossy.
  """

  keys: np.ndarray
  pixels: Mapping[int, Pixel]
  kind: str
  lossy: bool = False


@dataclasses.dataclass(frozen=True)
class Meaning:
  """The mapping from pixel values to labels, shared by all masks of a clip.

  Attributes:
    labels: The label of each pixel value that occurs; 0 is the background.
    notes: Messages for the user about conversions of the values.
  """

  labels: Mapping[Pixel, int]
  notes: tuple[str, ...] = ()

  def of(self, coded: Coded) -> np.ndarray:
    """Return the label map of one of the masks, uint8 [H, W].

    Raises:
      KeyError: If the mask has a value that is not in `labels`.
    """
    keys = np.array(sorted(coded.pixels), np.int64)
    labels = np.array([self.labels[coded.pixels[int(key)]] for key in keys], np.uint8)
    if coded.keys.dtype == np.uint8:
      table = np.zeros(256, np.uint8)
      table[keys] = labels
      return table[coded.keys]
    return labels[np.searchsorted(keys, coded.keys)]


def check_size(picture: np.ndarray, mask: np.ndarray) -> None:
  """Raise InputError unless a mask [H, W] has the size of its image [H, W, 3]."""
  (h, w), (height, width) = mask.shape, picture.shape[:2]
  if (h, w) != (height, width):
    turned = '; the picture may be stored sideways, with a note to turn it: turn the mask too'
    raise InputError(
      f'the mask is {w} x {h} but the picture is {width} x {height} pixels; give a mask of the same'
      f' size{turned if (h, w) == (width, height) else ""}'
    )


def list_masks(folder: Path) -> list[Path]:
  """Return the masks of a folder in the order of the numbers in their names.

  Only files of one format are returned, the first of SUFFIXES that occurs. Files created by
  operating systems, such as ._00000.png, are skipped.
  """
  files = [f for f in folder.iterdir() if not is_clutter(f)]
  for suffixes in SUFFIXES:
    if found := [f for f in files if f.suffix.lower() in suffixes]:
      return sorted_by_number(found)
  return []


def meaning_of(files: Iterable[Path], palette: np.ndarray, where: str) -> Meaning:
  """Infer how to map the masks of a clip to labels, with one mask in memory at a time.

  Args:
    files: The masks.
    palette: uint8 [n, 3], the colors of this package's objects 1..n.
    where: Name of the masks, for error messages.

  Raises:
    InputError: If a mask cannot be read, or their interpretation is ambiguous.
  """
  return _meaning((decode_file(file) for file in files), palette, where)


def read_masks(
  files: Sequence[Path], palette: np.ndarray, where: str, notes: list[str] | None = None
) -> list[np.ndarray]:
  """Return the label maps of a clip, uint8 [H, W] each; their sizes may differ.

  Args:
    files: The masks.
    palette: As in `meaning_of`.
    where: As in `meaning_of`.
    notes: List that receives messages for the user about conversions of the values.

  Raises:
    InputError: If a mask cannot be read, or their interpretation is ambiguous.
  """
  coded = [decode_file(file) for file in files]
  meaning = _meaning(coded, palette, where)
  if notes is not None:
    notes += [f'{where}: {note}' for note in meaning.notes]
  return [meaning.of(picture) for picture in coded]


def read_mask_image(
  image: Image.Image, palette: np.ndarray, where: str, notes: list[str] | None = None
) -> np.ndarray:
  """Return the label map of a PIL image, uint8 [H, W]; see `read_masks` for the arguments.

  Raises:
    InputError: If its interpretation is ambiguous.
  """
  coded = decode(image, where)
  meaning = _meaning([coded], palette, where)
  if notes is not None:
    notes += [f'{where}: {note}' for note in meaning.notes]
  return meaning.of(coded)


def read_mask_file(file: Path, meaning: Meaning) -> np.ndarray:
  """Return the label map, uint8 [H, W], of one of the files that `meaning` was inferred from.

  Raises:
    InputError: If the file cannot be read, or has changed since.
  """
  try:
    return meaning.of(decode_file(file))
  except KeyError as error:
    raise InputError(f'{file}: was changed while it was read; run the command again') from error


def mask_size(file: Path) -> tuple[int, int]:
  """Return the size (H, W) of a mask after its EXIF orientation is applied.

  Raises:
    InputError: If the file is not an image.
  """
  with open_image(file, _AS_PNG) as image:
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def decode_file(file: Path) -> Coded:
  """Return the pixels of a mask file.

  Raises:
    InputError: If the file is not an image, damaged, or contains several images.
  """
  with open_image(file, _AS_PNG) as image:
    count = getattr(image, 'n_frames', 1)
    if count > 1 and image.format != 'MPO':
      raise InputError(f'{file}: holds {count} pictures; save each mask as one file')
    try:
      return decode(image, str(file))
    except InputError:
      raise
    except Exception as error:  # Decoders raise many types of exceptions.
      raise InputError(f'{file}: not a readable image; {_AS_PNG}') from error


def decode(image: Image.Image, where: str) -> Coded:
  """Return the pixels of a PIL image that is a mask.

  Args:
    image: An image of any mode.
    where: Name of the image, for error messages.

  Raises:
    InputError: If its values are not integers.
  """
  lossy, key = image.format in ('JPEG', 'MPO'), image.info.get('transparency')
  top = _top(image)
  image = ImageOps.exif_transpose(image)
  mode = image.mode
  if mode == 'P' and image.palette is not None and image.palette.mode == 'RGB':
    keys = np.asarray(image)
    return Coded(keys, _palette_pixels(image, _occurring(keys)), 'palette', lossy)
  if mode in ('1', 'L', 'I', 'F') or mode.startswith('I;16'):
    values = np.asarray(image)
    if mode == 'F':
      if not np.array_equal(values, np.rint(values)):
        raise InputError(f'{where}: holds fractions; {_REMEDY}')
      values = values.astype(np.int64)
    values = values.astype(np.uint8) if mode == '1' else values
    greatest = {'1': 1, 'L': 255}.get(mode, 65535)
    top = top or greatest
    pixels = {}
    for stored in _occurring(values):
      value = round(stored * top / greatest)  # Undoes Pillow's scaling.
      pixels[stored] = Pixel(
        _VOID if value == top > 8 else value,
        _grey(stored, greatest),
        0 if stored == key else 255,
      )
    return Coded(values, pixels, 'grey', lossy)
  if is_transparent(image) or mode == 'P':
    channels = np.asarray(straight(image).convert('RGBA'))
  else:
    channels = np.asarray(image.convert('RGB'))
    channels = np.dstack([channels, np.full(channels.shape[:2], 255, np.uint8)])
  keys = np.ascontiguousarray(channels).view('>u4')[..., 0].astype(np.uint32)
  pixels = {k: Pixel(-1, (k >> 24, k >> 16 & 255, k >> 8 & 255), k & 255) for k in _occurring(keys)}
  return Coded(keys, pixels, 'color', lossy)


def _occurring(values: np.ndarray) -> list[int]:
  """Return the sorted distinct values of an array; fast if most neighbors are equal."""
  flat = values.ravel()
  return [int(v) for v in np.unique(flat[np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))])]


def _top(image: Image.Image) -> int:
  """Return the largest value that a gray file can store if Pillow scales its values, else 0."""
  tile = getattr(image, 'tile', None)
  if not tile:
    return 0
  arguments = tile[0][3]
  if tile[0][0] in ('ppm', 'ppm_plain') and isinstance(arguments, tuple):
    return int(arguments[1])
  raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
  bits = re.match(r'L;([24])', raw) if isinstance(raw, str) else None
  return 2 ** int(bits[1]) - 1 if bits else 0


def _grey(value: int, greatest: int) -> Color | None:
  """Return the color of a gray value of 0..greatest; None if 8 bits cannot represent it."""
  level, rest = divmod(value * 255, greatest)
  return (level, level, level) if not rest and 0 <= level <= 255 else None


def _palette_pixels(image: Image.Image, indices: Iterable[int]) -> dict[int, Pixel]:
  colors = np.array(image.getpalette('RGB') or [], np.uint8).reshape(-1, 3)
  transparent = image.info.get('transparency')

  def alpha(index: int) -> int:
    if isinstance(transparent, bytes):
      return transparent[index] if index < len(transparent) else 255
    return 0 if index == transparent else 255

  def color(index: int) -> Color | None:
    return _triple(colors[index]) if index < len(colors) else None

  return {i: Pixel(i, color(i), alpha(i)) for i in indices}


def _triple(row: np.ndarray) -> Color:
  red, green, blue = (int(x) for x in row)
  return red, green, blue


def _voc_color(index: int) -> Color:
  """Return a color of PASCAL VOC and DAVIS: bit 3 k + c of the index is bit 7 - k of channel c."""
  red, green, blue = (
    sum((index >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3)
  )
  return red, green, blue


_VOC = {index: _voc_color(index) for index in range(256)}


def _meaning(pictures: Iterable[Coded], palette: np.ndarray, where: str) -> Meaning:
  """Infer the mapping of decoded masks to labels; see `meaning_of`."""
  first: dict[Pixel, int] = {}
  kinds, lossy = set(), False
  for number, picture in enumerate(pictures):
    kinds.add(picture.kind)
    lossy = lossy or picture.lossy
    for pixel in picture.pixels.values():
      first.setdefault(pixel, number)
  colors = _shown(first, where)
  if lossy and not {*colors.values()} <= {BLACK, WHITE}:
    raise InputError(f'{where}: JPEG has altered the values of the mask; {_REMEDY}')
  numbers, notes = _numbers(first, colors, kinds, palette, where)
  labels, more = _labels(numbers, first, colors, len(palette), where)
  return Meaning(labels, (*notes, *more))


def _shown(first: Iterable[Pixel], where: str) -> dict[Pixel, Color | None]:
  """Return the color of each value, black if its opacity is less than half of the maximum.

  The maximum is relative, since the inside of a cutout with smoothed edges may be translucent.

  Raises:
    InputError: If a color occurs only where it is transparent.
  """
  highest = max((pixel.alpha for pixel in first), default=0)
  shown = {p: p.color if p.alpha and 2 * p.alpha >= highest else BLACK for p in first}
  seen = {*shown.values(), BLACK}
  lost = [p.color for p in first if p.color not in seen and (p.alpha or not highest)]
  if lost and len(seen) <= _PHOTO:
    raise InputError(
      f'{where}: holds the color {_hex(lost[0])} only where it is transparent; remove the'
      ' transparency of the mask'
    )
  return shown


def _numbers(
  first: Mapping[Pixel, int],
  colors: Mapping[Pixel, Color | None],
  kinds: set[str],
  palette: np.ndarray,
  where: str,
) -> tuple[dict[Pixel, int], list[str]]:
  """Return the object id of each value, which may be any integer, and notes for the user."""
  ours = {number: _triple(row) for number, row in enumerate(palette, 1)}
  shown = {*colors.values()} - {BLACK}
  highest = max((p.alpha for p in first), default=0)
  stored = {p: p.value if p.alpha and 2 * p.alpha >= highest else 0 for p in first}
  if kinds <= {'grey'}:
    sixteen = [p.value for p in first if p.value not in (0, _VOID)]
    if sixteen and all(p.color is not None for p in first) and min(sixteen) >= 257:
      return {p: v if v in (0, _VOID) else v // 257 for p, v in stored.items()}, []
    return stored, []
  if all(
    p.value >= 0
    and stored[p] == p.value
    and colors[p] in (_VOC.get(p.value), ours.get(p.value), (p.value,) * 3)
    for p in first
  ):
    return stored, []
  for known, name in ((ours, "this package's palette"), (_VOC, 'the palette of DAVIS')):
    by_color = {BLACK: 0} | {color: number for number, color in known.items()}
    if shown <= {*by_color} and not all(_is_grey(color) for color in shown):
      instead = ', not by its order in the file' if 'palette' in kinds else ''
      told = f'objects told by their colors in {name}{instead}'
      return {p: by_color[colors[p]] for p in first}, [told]  # type: ignore[index]
  if shown and all(_is_grey(color) for color in shown):
    levels = {p: color[0] for p, color in colors.items()}  # type: ignore[index]
    return levels, [] if shown <= {WHITE} else ['grey levels read as object ids']
  if _indices_are_ids(first, colors):
    return stored, []
  if not shown:
    return dict.fromkeys(first, 0), []
  if {*colors.values()} <= shown:
    raise InputError(
      f'{where}: no pixel is black, so that its colors do not tell the background; make the'
      ' background black'
    )
  opaque = {p: color for p, color in colors.items() if color != BLACK}
  if len(shown) > _PHOTO and min(p.alpha for p in first) == 0:
    return {p: int(p in opaque) for p in first}, ['its opaque pixels read as one object']
  _check_count(len(shown), len(palette), where, 'colors')
  since = {color: min(first[p] for p in opaque if colors[p] == color) for color in shown}
  order = sorted(shown, key=lambda color: (since[color], color or BLACK))
  numbered = {color: number for number, color in enumerate(order, 1)}
  listed = f'{", ".join(map(_hex, order))} read as {", ".join(map(str, numbered.values()))}'
  return (
    {p: numbered.get(colors[p], 0) for p in first},
    [f'{"colors" if len(order) > 1 else "color"} {listed}'],
  )


def _indices_are_ids(first: Mapping[Pixel, int], colors: Mapping[Pixel, Color | None]) -> bool:
  """Return whether the indices of an unknown palette are ids, with 0 as the background.

  They are ids only if an index has the same color in all images.
  """
  by_value: dict[int, set[Color | None]] = {}
  for pixel in first:
    by_value.setdefault(pixel.value, set()).add(colors[pixel])
  if -1 in by_value or any(len(meant) > 1 for meant in by_value.values()):
    return False
  black_elsewhere = any(colors[p] == BLACK and p.value for p in first)
  # A palette with fewer colors than used indices was not made for display.
  return not black_elsewhere or len({*colors.values()}) < len(by_value)


def _labels(
  numbers: Mapping[Pixel, int],
  first: Mapping[Pixel, int],
  colors: Mapping[Pixel, Color | None],
  most: int,
  where: str,
) -> tuple[dict[Pixel, int], list[str]]:
  """Map object ids to labels 1..most; return them with notes for the user."""
  notes: list[str] = []
  since: dict[int, int] = {}
  for pixel, number in numbers.items():
    since[number] = min(first[pixel], since.get(number, first[pixel]))
  present = sorted(set(since) - {0}, key=lambda n: (since[n], n))
  if present and min(present) < 0:
    raise InputError(f'{where}: holds the value {min(present)}; {_REMEDY}')
  labels = {n: n for n in (0, *present) if n <= most}
  others = [n for n in present if n > most]
  if _VOID in others:
    rest = [n for n in present if n != _VOID]
    whites = {colors[p] for p, number in numbers.items() if number == _VOID}
    if not rest and whites <= {WHITE, None}:
      notes.append('white on black read as one object')
      labels[_VOID] = 1
      others = []
    elif rest and whites <= {WHITE, None} and any(n > most for n in rest):
      _check_count(len(present), most, where, 'values')
      raise InputError(
        f'{where}: holds {_listed(rest)} and 255, which may be an object or mean "ignore"; number'
        f' the objects 1 to {most}, and all else 0'
      )
    elif rest or whites == {_VOC[_VOID]}:
      notes.append('255 read as background, as the mark of pixels to ignore')
      labels[_VOID] = 0
      others.remove(_VOID)
  _check_count(len(others) + len({*labels.values()} - {0}), most, where, 'values')
  free = [n for n in range(1, most + 1) if n not in labels]
  for number, label in zip(others, free, strict=False):
    labels[number] = label
  if others:
    new = ', '.join(str(labels[n]) for n in others)
    notes.append(f'{_listed(others)} renumbered to {new}')
  return {p: labels[number] for p, number in numbers.items()}, notes


def _check_count(count: int, most: int, where: str, what: str) -> None:
  """Raise InputError if there are more objects than labels; above _BLURRED, suspect smoothing."""
  if count > _BLURRED:
    raise InputError(
      f'{where}: holds {count} {what}, as smoothing and lossy formats leave them; {_REMEDY}'
    )
  if count > most:
    raise InputError(
      f'{where}: holds {count} objects, but there can be {most}; make the others background, 0'
    )


def _is_grey(color: Color | None) -> bool:
  return color is not None and color[0] == color[1] == color[2]


def _listed(values: Sequence[int]) -> str:
  return f'{"values" if len(values) > 1 else "value"} {", ".join(map(str, values))}'


def _hex(color: Color | None) -> str:
  return '#' + ''.join(f'{x:02x}' for x in color or BLACK)
