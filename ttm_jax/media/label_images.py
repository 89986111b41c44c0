"""Read label maps from pictures of any kind: which object each pixel of a clip belongs to.

People store masks as palette PNGs, as grey levels, as white on black, as colors, or as numbers of
16 bits. One rule is found for all pictures of a clip, from all values that occur in it, so that an
object has one number throughout. In this order:

1. Grey pictures: the values are object ids. Low depths and 16 bits count as stored.
2. Palettes whose used colors are those of a known palette in its order: the indices are ids. Known
   are the palette of this package, the one of PASCAL VOC and DAVIS, and grey levels.
3. Pictures in the colors of a known palette, in any order or as RGB: its numbers are ids.
4. Palettes of other colors: the indices are ids, if they mean the same in all pictures.
5. Other colors on black: each color is an object, numbered by first appearance, then by color.

Transparent pixels are background. White alone (or 1 in a picture of 1 bit) is object 1; 255 beside
object ids is the usual mark of "ignore" and becomes background. Ids above 8 get the lowest free
numbers; ids of 1 to 8 stay. What could mean two things is refused. Notes say what was done.
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
"""Endings of masks in lower case, by format; the first that a folder holds is the one read."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
_VOID = 255  # Also stands for the greatest value of other depths.
_BLURRED = 32  # More values than this are no longer a matter of many objects.
_PHOTO = 255  # More colors than this are those of a photo.
_AS_PNG = 'save the mask as PNG'
_REMEDY = 'save it as PNG without smoothing, each pixel the number of its object, 1 to 8, or 0'

Color = tuple[int, int, int]


class Pixel(NamedTuple):
  """A value that occurs in a picture.

  Attributes:
    value: grey value as stored, or palette index; -1 in pictures of colors.
    color: R, G, B as shown; None for values that 8 bits cannot show.
    alpha: opacity, 0 to 255.
  """

  value: int
  color: Color | None
  alpha: int


@dataclasses.dataclass(frozen=True)
class Coded:
  """The pixels of one picture, before their meaning is known.

  Attributes:
    keys: integers [H, W].
    pixels: what each key that occurs stands for.
    kind: 'grey', 'palette' or 'color'.
    lossy: whether the format alters values.
  """

  keys: np.ndarray
  pixels: Mapping[int, Pixel]
  kind: str
  lossy: bool = False


@dataclasses.dataclass(frozen=True)
class Meaning:
  """How the pictures of a clip are read.

  Attributes:
    labels: the object of each value that occurs, 0 for the background.
    notes: what was done beyond taking numbers as they are, for the user to read.
  """

  labels: Mapping[Pixel, int]
  notes: tuple[str, ...] = ()

  def of(self, coded: Coded) -> np.ndarray:
    """Return the label map of one of the pictures: uint8 [H, W]."""
    keys = np.array(sorted(coded.pixels), np.int64)
    labels = np.array([self.labels[coded.pixels[int(key)]] for key in keys], np.uint8)
    if coded.keys.dtype == np.uint8:
      table = np.zeros(256, np.uint8)
      table[keys] = labels
      return table[coded.keys]
    return labels[np.searchsorted(keys, coded.keys)]


def check_size(picture: np.ndarray, mask: np.ndarray) -> None:
  """Raise InputError unless a mask [H, W] is of the size of its picture [H, W, 3]."""
  (h, w), (height, width) = mask.shape, picture.shape[:2]
  if (h, w) != (height, width):
    turned = '; the picture may be stored sideways, with a note to turn it: turn the mask too'
    raise InputError(
      f'the mask is {w} x {h} but the picture is {width} x {height} pixels; give a mask of the same'
      f' size{turned if (h, w) == (width, height) else ""}'
    )


def list_masks(folder: Path) -> list[Path]:
  """Return the masks of a folder by the numbers in their names; of several formats, those of one.

  Files that systems leave, such as ._00000.png, are passed over.
  """
  files = [f for f in folder.iterdir() if not is_clutter(f)]
  for suffixes in SUFFIXES:
    if found := [f for f in files if f.suffix.lower() in suffixes]:
      return sorted_by_number(found)
  return []


def meaning_of(files: Iterable[Path], palette: np.ndarray, where: str) -> Meaning:
  """Find out how the masks of a clip are to be read, holding one of them in memory at a time.

  Args:
    files: the masks.
    palette: uint8 [n, 3], the colors of this package's objects 1..n.
    where: names the masks in errors.

  Raises:
    InputError: one cannot be read, or their meaning is ambiguous.
  """
  return _meaning((decode_file(file) for file in files), palette, where)


def read_masks(
  files: Sequence[Path], palette: np.ndarray, where: str, notes: list[str] | None = None
) -> list[np.ndarray]:
  """Return the label maps of a clip: uint8 [H, W] each, in sizes of their own.

  Args:
    files, palette, where: as in `meaning_of`.
    notes: receives what was done beyond taking numbers as they are.

  Raises:
    InputError: as in `meaning_of`.
  """
  coded = [decode_file(file) for file in files]
  meaning = _meaning(coded, palette, where)
  if notes is not None:
    notes += [f'{where}: {note}' for note in meaning.notes]
  return [meaning.of(picture) for picture in coded]


def read_mask_image(
  image: Image.Image, palette: np.ndarray, where: str, notes: list[str] | None = None
) -> np.ndarray:
  """Return the label map of a PIL image, uint8 [H, W], as `read_masks` does for a file.

  Raises:
    InputError: its meaning is ambiguous.
  """
  coded = decode(image, where)
  meaning = _meaning([coded], palette, where)
  if notes is not None:
    notes += [f'{where}: {note}' for note in meaning.notes]
  return meaning.of(coded)


def read_mask_file(file: Path, meaning: Meaning) -> np.ndarray:
  """Return the label map of one of the files that `meaning` was found from: uint8 [H, W].

  Raises:
    InputError: it cannot be read, or has changed since.
  """
  try:
    return meaning.of(decode_file(file))
  except KeyError as error:
    raise InputError(f'{file}: was changed while it was read; run the command again') from error


def mask_size(file: Path) -> tuple[int, int]:
  """Return (H, W) of a mask as it is read.

  Raises:
    InputError: it is no picture.
  """
  with open_image(file, _AS_PNG) as image:
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def decode_file(file: Path) -> Coded:
  """Return the pixels of a mask.

  Raises:
    InputError: it is no picture, damaged, or holds several.
  """
  with open_image(file, _AS_PNG) as image:
    count = getattr(image, 'n_frames', 1)
    if count > 1 and image.format != 'MPO':
      raise InputError(f'{file}: holds {count} pictures; save each mask as one file')
    try:
      return decode(image, str(file))
    except InputError:
      raise
    except Exception as error:  # Decoders have errors for everything.
      raise InputError(f'{file}: not a readable picture; {_AS_PNG}') from error


def decode(image: Image.Image, where: str) -> Coded:
  """Return the pixels of a PIL image as a mask.

  Raises:
    InputError: its values are not whole numbers.
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
      value = round(stored * top / greatest)  # As it was before Pillow scaled it.
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
  """The different values of an array, in order; fast where neighbors are mostly equal."""
  flat = values.ravel()
  return [int(v) for v in np.unique(flat[np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))])]


def _top(image: Image.Image) -> int:
  """The greatest value that a grey file can store, where Pillow scales values; else 0."""
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
  """A color of PASCAL VOC and DAVIS: bit 3 k + c of the index is bit 7 - k of channel c."""
  red, green, blue = (
    sum((index >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3)
  )
  return red, green, blue


_VOC = {index: _voc_color(index) for index in range(256)}


def _meaning(pictures: Iterable[Coded], palette: np.ndarray, where: str) -> Meaning:
  """See `meaning_of`."""
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
  """The color of each value, black where it is rather transparent than opaque.

  The edges of a cut-out are smoothed in opacity, up to the opacity of its inside.
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
  """The number that each value stands for, any whole number, and notes."""
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
  """Whether a palette of unknown colors means the same in all pictures, with 0 the background."""
  by_value: dict[int, set[Color | None]] = {}
  for pixel in first:
    by_value.setdefault(pixel.value, set()).add(colors[pixel])
  if -1 in by_value or any(len(meant) > 1 for meant in by_value.values()):
    return False
  black_elsewhere = any(colors[p] == BLACK and p.value for p in first)
  # A palette with less colors than values was never made to be looked at.
  return not black_elsewhere or len({*colors.values()}) < len(by_value)


def _labels(
  numbers: Mapping[Pixel, int],
  first: Mapping[Pixel, int],
  colors: Mapping[Pixel, Color | None],
  most: int,
  where: str,
) -> tuple[dict[Pixel, int], list[str]]:
  """Bring numbers to 1..most, and say how."""
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
