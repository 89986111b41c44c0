"""A trajectory is a label map: which object each pixel of a clip belongs to.

`ids` is uint8 [T, H, W], 0 is the background and l = 1..8 is object l. Colours, boxes, the labels
of tokens and pictures for people are functions of it, and only this module knows about colours.
All of it runs on the host, in NumPy.
"""

import io
import os
import pathlib
import shutil
import tempfile
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ttm_jax.atomic import flush, flush_tree, new_folder
from ttm_jax.errors import InputError, nearest
from ttm_jax.media.label_images import list_masks, read_masks

MAX_OBJECTS = 8
LABELS = MAX_OBJECTS + 1  # With the background.


def _colours(hexadecimal: str) -> np.ndarray:
  return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 3)


PALETTES: dict[str, np.ndarray] = {
  # Corners of the RGB cube, and orange: no two closer than 127 levels, all at least 255 from black.
  'spread8': _colours('ff0000 00ff00 0000ff ffff00 ff00ff 00ffff ff8000 ffffff'),
  # Half of entries 1..8 of supervision's default palette: its MaskAnnotator (opacity 0.5) on black,
  # which is what the videos on the paper's project page show. Object 3 is close to 1 and 2; keep
  # to two objects.
  'supervision_half': np.rint(
    0.5 * _colours('ff4040 ffa1a0 ff7633 ffb633 d1d435 4cfb12 94cf1a 40de8a')
  ).astype(np.uint8),
}
"""uint8 [8, 3] by name; row l - 1 is the RGB colour of object l. The background is black."""

MaskKind = Literal['box', 'seg', 'dilated_box']


def check_ids(ids: np.ndarray, ndim: int | None = 3) -> None:
  """Raises InputError unless `ids` is uint8, of `ndim` dimensions (None: any), and at most 8."""
  if ids.dtype != np.uint8 or (ndim is not None and ids.ndim != ndim):
    kind = {None: '[..., H, W]', 2: '[H, W]', 3: '[T, H, W]'}[ndim]
    raise InputError(f'a label map must be uint8 {kind}, got {ids.dtype} {list(ids.shape)}')
  if (highest := int(ids.max(initial=0))) > MAX_OBJECTS:
    raise InputError(f'a label map holds object {highest}, but objects are numbered 1..8')


def _table(palette: str) -> np.ndarray:
  """The colours of all labels, black first: uint8 [9, 3]."""
  if palette not in PALETTES:
    known = ', '.join(PALETTES)
    raise InputError(f'no palette "{palette}"{nearest(palette, PALETTES)}; there are {known}')
  return np.concatenate([np.zeros((1, 3), np.uint8), PALETTES[palette]])


def render(ids: np.ndarray, palette: str = 'spread8') -> np.ndarray:
  """Paints a label map: uint8 [..., H, W] to RGB uint8 [..., H, W, 3]."""
  check_ids(ids, ndim=None)
  return np.take(_table(palette), ids, axis=0)


def _closest(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
  """Index of the colour at the least L2 distance, the first of equals.

  Args:
    pixels: uint8 [..., 3].
    colours: uint8 [n, 3].

  Returns:
    uint8 [...].
  """
  # Whole numbers below 2^24: float32 is exact, and goes through BLAS. |p|^2 is left out.
  pixels, colours = pixels.astype(np.float32), colours.astype(np.float32)
  closest = np.zeros(pixels.shape[:-1], np.uint8)
  best = np.full(pixels.shape[:-1], np.inf, np.float32)
  for index, colour in enumerate(colours):
    distance = pixels @ (-2 * colour)
    distance += colour @ colour
    np.copyto(closest, index, where=distance < best)
    np.minimum(best, distance, out=best)
  return closest


def _vote(ids: np.ndarray) -> np.ndarray:
  """Gives each pixel the most frequent label of its 3x3 pixels; of equals its own, then the least.

  Where there is one object, this is a 3x3 median.
  """
  result, best = np.zeros_like(ids), np.zeros(ids.shape, np.uint8)
  for label in np.unique(ids):
    own = (ids == label).astype(np.uint8)
    lines = own.copy()
    lines[:, 1:] += own[:, :-1]
    lines[:, :-1] += own[:, 1:]
    votes = lines.copy()
    votes[..., 1:] += lines[..., :-1]
    votes[..., :-1] += lines[..., 1:]
    score = 2 * votes + own
    np.copyto(result, label, where=score > best)
    np.maximum(best, score, out=best)
  return result


def decode(
  rgb: np.ndarray, first: np.ndarray | None, palette: str = 'spread8', smooth: bool = False
) -> np.ndarray:
  """Reads a label map from painted frames that a codec and a sampler have blurred.

  A pixel takes the nearest (L2 in RGB) of black and the colours of the palette. So the blurred
  edge of an object lies where it is half as bright as the object: with a fixed, lower threshold
  for black all objects would swell, by a sixth of their IoU for small ones after a codec.

  Objects do not appear after frame 0: colours of objects that `first` lacks are left out. So a
  blemish inside an object stays in that object instead of punching a hole in it (the edge between
  red and white is pink, which is nearest to orange), while an invented object on black goes away.

  Args:
    rgb: uint8 [T, H, W, 3].
    first: the true label map of frame 0, uint8 [H, W], which the result takes over; None where it
      is not known, and every colour counts.
    palette: the one the frames were painted with.
    smooth: let the 3x3 pixels around each vote on its label. This removes specks, a single one of
      which stretches the box of an object over the frame, and costs what is a pixel wide.

  Returns:
    uint8 [T, H, W].
  """
  table = _table(palette)
  if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[-1] != 3:
    raise InputError(f'painted frames must be uint8 [T, H, W, 3], got {rgb.dtype} {rgb.shape}')
  allowed = np.arange(LABELS, dtype=np.uint8)
  if first is not None:
    check_ids(first, ndim=2)
    if first.shape != rgb.shape[1:3]:
      raise InputError(
        f'the mask of frame 0 is {_size(first)}, but the painted frames are {_size(rgb[..., 0])}'
      )
    allowed = np.union1d(first, np.uint8(0))
  ids = allowed[_closest(rgb, table[allowed])]
  if smooth:
    ids = _vote(ids)
  if first is not None:
    ids[0] = first
  return ids


def from_logits(logits: np.ndarray) -> np.ndarray:
  """Who owns each pixel: the object of the greatest logit above 0.

  Equal logits go to the object that is smaller in that frame, then to the first.

  Args:
    logits: float [T, n, H, W].

  Returns:
    uint8 [T, H, W]; object i of the logits has the label i + 1.
  """
  areas = (logits > 0).sum((2, 3))
  result = np.zeros((len(logits), *logits.shape[2:]), np.uint8)
  for frame, (scores, area) in enumerate(zip(logits, areas, strict=True)):
    best = np.zeros(scores.shape[1:], scores.dtype)
    for i in np.argsort(area, kind='stable'):  # Strictly greater: the smaller one keeps its place.
      np.copyto(result[frame], np.uint8(i + 1), where=scores[i] > best)
      np.maximum(best, scores[i], out=best)
  return result


def boxes(ids: np.ndarray, num_objects: int = MAX_OBJECTS) -> np.ndarray:
  """The tight box of each object in each frame.

  Args:
    ids: uint8 [T, H, W] without objects above `num_objects`.
    num_objects: L, 1..8.

  Returns:
    int32 [T, L, 4]: x0, y0, x1, y1 in pixels, x1 and y1 exclusive; zeros where there is none.
  """
  check_ids(ids)
  if (highest := int(ids.max(initial=0))) > num_objects:
    raise InputError(f'the label map holds object {highest}, but boxes of {num_objects} were asked')
  # All objects at once: a byte of object sets for each pixel, joined along columns and rows.
  bits = np.take(np.array([0, *(1 << np.arange(MAX_OBJECTS))], np.uint8), ids)
  objects = np.arange(num_objects, dtype=np.uint8)[:, None]

  def extent(joined):
    seen = (joined[:, None] >> objects & 1).astype(bool)  # [T, L, W or H]
    start, end = seen.argmax(-1), seen.shape[-1] - seen[..., ::-1].argmax(-1)
    return start, np.where(seen.any(-1), end, 0)

  x0, x1 = extent(np.bitwise_or.reduce(bits, axis=1))
  y0, y1 = extent(np.bitwise_or.reduce(bits, axis=2))
  return np.stack([x0, y0, x1, y1], axis=-1).astype(np.int32)


def _size(ids: np.ndarray) -> str:
  return f'{ids.shape[-2]}x{ids.shape[-1]}'


def _cell_size(ids: np.ndarray, grid: tuple[int, int]) -> tuple[int, int]:
  """Pixels a token covers along (height, width)."""
  (height, width), (h, w) = ids.shape[-2:], grid
  if min(grid) < 1 or height % h or width % w:
    raise InputError(f'a grid of {h}x{w} tokens does not divide a picture of {_size(ids)} pixels')
  return height // h, width // w


def _cell_counts(ids: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """How many pixels of each label lie in each cell of each frame: int [T, h, w, 9]."""
  (frames, height, width), (h, w) = ids.shape, grid
  cell_height, cell_width = _cell_size(ids, grid)
  row, column = np.arange(height) // cell_height, np.arange(width) // cell_width
  start = LABELS * (np.arange(frames)[:, None, None] * (h * w) + row[:, None] * w + column)
  counts = np.bincount((start + ids).ravel(), minlength=frames * h * w * LABELS)
  return counts.reshape(frames, h, w, LABELS)


def areas(ids: np.ndarray) -> np.ndarray:
  """How many pixels each label has in each frame, the background first: int [T, 9]."""
  check_ids(ids)
  return _cell_counts(ids, (1, 1))[:, 0, 0]


def _group_starts(ids: np.ndarray, groups: npt.ArrayLike) -> np.ndarray:
  """The first pixel frame of each latent frame: int [t]."""
  groups = np.asarray(groups)
  steps = np.diff(groups, prepend=-1) if groups.ndim == 1 and groups.size else np.zeros(1)
  if groups.shape != ids.shape[:1] or steps[0] != 1 or not np.isin(steps, (0, 1)).all():
    raise InputError(
      f'frame groups must number the latent frame of each of {len(ids)} pixel frames, from 0'
      f' without gaps, got {np.array2string(groups, threshold=8)}'
    )
  return np.flatnonzero(steps)


def token_regions(ids: np.ndarray, groups: npt.ArrayLike, grid: tuple[int, int]) -> np.ndarray:
  """The one object that owns each token, for masked self-attention (paper, section 3.3).

  A token belongs to the label with the most pixels in its volume (the frames of its group, its cell
  of the picture). Of equals the object with fewer pixels in the latent frame wins, then the lower
  number; the background loses to every object. An object that is visible in a latent frame and
  would own none of its tokens takes one: the token with the most of its pixels that is not the
  last one of another object, of equals the nearest to its centroid. The smallest object chooses
  first. So every visible object owns a token, as long as there are as many tokens as objects.

  Args:
    ids: uint8 [T, H, W].
    groups: the latent frame of each pixel frame, int [T], non-decreasing from 0 without gaps.
    grid: tokens along (height, width) of a latent frame; divides (H, W).

  Returns:
    uint8 [t, h, w], 0 is the background.
  """
  check_ids(ids)
  counts = np.add.reduceat(_cell_counts(ids, grid), _group_starts(ids, groups), axis=0)
  sizes = counts.sum(axis=(1, 2))  # [t, 9]
  key = sizes.copy()
  key[:, 0] = sizes.sum(-1) + 1  # The background comes last.
  order = key.argsort(axis=-1, kind='stable')
  ranked = np.take_along_axis(counts, order[:, None, None], axis=-1)
  winner = ranked.argmax(axis=-1)  # The first of equals, thus the smallest.
  regions = np.take_along_axis(order[:, None, None], winner[..., None], axis=-1)[..., 0]

  owned = (regions[..., None] == np.arange(LABELS)).any(axis=(1, 2))
  homeless = np.take_along_axis((sizes > 0) & ~owned, order, axis=-1)[:, :MAX_OBJECTS]
  for frame, rank in np.argwhere(homeless):  # Smallest first within a frame.
    label = order[frame, rank]
    _give_token(regions[frame], counts[frame, ..., label], label)
  return regions.astype(np.uint8)


def _give_token(region: np.ndarray, count: np.ndarray, label: int) -> None:
  """Hands a token to an object that owns none, in place, unless all are last ones of others.

  Args:
    region: int [h, w], the owners so far.
    count: int [h, w], pixels of the object in each token.
    label: the object.
  """
  tokens = np.bincount(region.ravel(), minlength=LABELS)
  free = (region == 0) | (tokens[region] > 1)
  if not free.any():
    return
  row, column = np.indices(region.shape)
  weight = count / count.sum()
  distance = (row - (row * weight).sum()) ** 2 + (column - (column * weight).sum()) ** 2
  score = np.where(free, count, -1)
  best = np.where(score == score.max(), distance, np.inf).argmin()
  region[np.unravel_index(best, region.shape)] = label


def token_presence(
  ids: np.ndarray,
  groups: npt.ArrayLike,
  grid: tuple[int, int],
  mask: MaskKind = 'box',
  regions: np.ndarray | None = None,
) -> np.ndarray:
  """The set of objects at each token, for masked cross-attention (paper, section 3.3).

  An object is at a token if, in any frame of the token's group, its tight box covers at least half
  of the token's cell, or has its centre there; so it is somewhere in every frame that shows it.
  Boxes overlap, hence sets. The owner of a token is always at it.

  Args:
    ids: uint8 [T, H, W].
    groups, grid: see `token_regions`.
    mask: 'box' as above. 'dilated_box': the box grown by half a token on each side, within the
      picture, which forgives a generated trajectory small errors. 'seg': the pixels of the object
      themselves cover half of the cell, or more of it than of any other cell.
    regions: what `token_regions` gave for the same arguments, where it is known already.

  Returns:
    int32 [t, h, w]; bit l is set for object l, bit 0 never.
  """
  check_ids(ids)
  starts = _group_starts(ids, groups)
  if regions is None:
    regions = token_regions(ids, groups, grid)
  if mask == 'seg':
    there = _cells_of_pixels(ids, grid)
  elif mask in ('box', 'dilated_box'):
    there = _cells_of_boxes(ids, grid, grow=mask == 'dilated_box')
  else:
    raise InputError(f'no object mask "{mask}"; there are box, seg, dilated_box')
  label = np.arange(1, LABELS, dtype=np.int32)[:, None, None]
  bits = np.bitwise_or.reduce(there.astype(np.int32) << label, axis=1)
  owner = np.left_shift(1, regions, dtype=np.int32) & ~1
  return np.bitwise_or.reduceat(bits, starts, axis=0) | owner


def _cells_of_boxes(ids: np.ndarray, grid: tuple[int, int], grow: bool) -> np.ndarray:
  """Whether the box of each object covers half of each cell or is centred there: [T, 8, h, w]."""
  x0, y0, x1, y1 = np.moveaxis(boxes(ids), -1, 0)[..., None]  # Each [T, 8, 1].

  def along(start, end, cells, cell_size):
    low = np.arange(cells) * cell_size
    margin = np.where(end > start, cell_size // 2 if grow else 0, 0)
    # Cells end at the border of the picture, and with them a grown box.
    overlap = np.minimum(end + margin, low + cell_size) - np.maximum(start - margin, low)
    is_centre = ((start + end) // (2 * cell_size) == np.arange(cells)) & (end > start)
    return np.maximum(overlap, 0), is_centre

  cell_height, cell_width = _cell_size(ids, grid)
  overlap_y, centre_y = along(y0, y1, grid[0], cell_height)
  overlap_x, centre_x = along(x0, x1, grid[1], cell_width)
  covered = overlap_y[..., :, None] * overlap_x[..., None, :]
  centred = centre_y[..., :, None] & centre_x[..., None, :]
  return (2 * covered >= cell_height * cell_width) | centred


def _cells_of_pixels(ids: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Whether each object covers half of each cell or has most pixels there: bool [T, 8, h, w]."""
  counts = np.moveaxis(_cell_counts(ids, grid)[..., 1:], -1, 1)
  flat = counts.reshape(*counts.shape[:2], -1)
  best = flat.argmax(-1)[..., None] == np.arange(flat.shape[-1])
  cell_height, cell_width = _cell_size(ids, grid)
  there = (2 * flat >= cell_height * cell_width) | (best & (flat > 0))
  return there.reshape(counts.shape)


def overlay(video: np.ndarray, ids: np.ndarray, palette: str = 'spread8') -> np.ndarray:
  """Tints the objects of a video and outlines them, for people.

  Args:
    video: uint8 [T, H, W, 3].
    ids: uint8 [T, H, W].

  Returns:
    uint8 like `video`: two parts of colour in five within an object, its bare colour on the rim,
    which is one pixel wide for every 256 of the shorter side.
  """
  check_ids(ids)
  if video.dtype != np.uint8 or video.shape != (*ids.shape, 3):
    raise InputError(
      f'a video under label maps of {list(ids.shape)} must be uint8 {[*ids.shape, 3]},'
      f' got {video.dtype} {list(video.shape)}'
    )
  colour = render(ids, palette)
  rim = np.zeros(ids.shape, bool)
  for distance in range(1, max(1, round(min(ids.shape[1:]) / 256)) + 1):
    for axis in (1, 2):
      ahead = np.take(ids, range(distance, ids.shape[axis]), axis)
      behind = np.take(ids, range(ids.shape[axis] - distance), axis)
      differs = ahead != behind
      np.moveaxis(rim, axis, 0)[distance:] |= np.moveaxis(differs, axis, 0)
      np.moveaxis(rim, axis, 0)[:-distance] |= np.moveaxis(differs, axis, 0)
  tinted = ((video.astype(np.uint16) * 3 + colour.astype(np.uint16) * 2) // 5).astype(np.uint8)
  inside = ids > 0
  result = np.where(inside[..., None], tinted, video)
  return np.where((rim & inside)[..., None], colour, result)


def write_folder(path: str | os.PathLike, ids: np.ndarray) -> None:
  """Write a label map as palette PNGs `00000.png`, `00001.png`, ..., without loss: all or none.

  Picture viewers show them in the colors of `spread8`. The folder is made if need be. Frames of an
  earlier label map are replaced once all new ones are on the disk; other files stay.

  Args:
    ids: uint8 [T, H, W].

  Raises:
    InputError: the folder holds other PNGs (see `check_folder`), or cannot be written.
  """
  check_ids(ids)
  folder = pathlib.Path(path)
  check_folder(folder, len(ids))
  pictures = dict(zip(_frame_names(len(ids)), map(_png, ids), strict=True))
  try:
    if not folder.is_dir() or not any(folder.iterdir()):
      with new_folder(folder) as partial:
        for name, content in pictures.items():
          (partial / name).write_bytes(content)
      return
    staged = pathlib.Path(tempfile.mkdtemp(prefix='.', suffix='.partial', dir=folder))
    try:
      for name, content in pictures.items():
        (staged / name).write_bytes(content)
      flush_tree(staged)
      for name in pictures:
        (staged / name).replace(folder / name)
      flush(folder)
    finally:
      shutil.rmtree(staged, ignore_errors=True)
  except OSError as error:
    reason = error.strerror or error
    raise InputError(
      f'cannot write label maps to {folder} ({reason}); name another folder'
    ) from error


def check_folder(path: str | os.PathLike, frames: int) -> None:
  """Raise InputError where a folder cannot take a label map of T frames.

  That is where it holds another PNG, which `read_folder` would take for a frame of the clip, or
  something else than a file under the name of a frame, or is no folder.
  """
  folder, names = pathlib.Path(path), _frame_names(frames)
  if not folder.is_dir():
    if folder.exists():
      raise InputError(
        f'cannot write label maps to {folder} (there is a file of that name); name another folder'
      )
    return
  there = [f for f in folder.iterdir() if f.suffix.lower() == '.png' and f.name[0] != '.']
  if stale := sorted({file.name for file in there} - set(names)):
    raise InputError(
      f'{folder} holds {stale[0]}, which would be read as a frame of this clip of {frames} frames;'
      ' move it away, or name another folder'
    )
  for file in there:
    if file.is_symlink() or not file.is_file():
      raise InputError(f'{file} is not a file of its own; move it away, or name another folder')


def _frame_names(count: int) -> list[str]:
  return [f'{frame:05d}.png' for frame in range(count)]


def _png(frame: np.ndarray) -> bytes:
  """A palette PNG of one label map uint8 [H, W]."""
  picture = Image.fromarray(frame)
  picture.putpalette(_table('spread8').tobytes())  # Makes it mode P; the values stay.
  file = io.BytesIO()
  picture.save(file, 'PNG')
  return file.getvalue()


def read_folder(path: str | os.PathLike, notes: list[str] | None = None) -> np.ndarray:
  """Read a folder of label pictures, one a frame, in the order of the numbers in their names.

  They may be palette, grey or color pictures; `label_images` says what each means.

  Args:
    notes: receives what was done beyond taking numbers as they are, for the user to read.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: there is no such folder or no picture in it, one cannot be read or differs in size,
      or what they mean is ambiguous.
  """
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise InputError(f'no folder {folder}; give a folder of PNG label maps, one a frame')
  files = list_masks(folder)
  if not files:
    raise InputError(f'{folder} holds no PNG files; give a folder of PNG label maps, one a frame')
  frames = read_masks(files, PALETTES['spread8'], str(folder), notes)
  for file, frame in zip(files, frames, strict=True):
    if frame.shape != frames[0].shape:
      raise InputError(
        f'{file} is {_size(frame)}, but {files[0].name} is {_size(frames[0])}; all frames must'
        ' have one size'
      )
  return np.stack(frames)


def read_mask(path: str | os.PathLike, notes: list[str] | None = None) -> np.ndarray:
  """Read the label map of one picture, as `read_folder` does: uint8 [H, W], some object.

  Raises:
    InputError: as in `read_folder`, or it shows no object.
  """
  file = pathlib.Path(path)
  (mask,) = read_masks([file], PALETTES['spread8'], str(file), notes)
  if not mask.any():
    raise InputError(f'{path} shows no object; give each object a number, 1..8, as its value')
  return mask
