"""Trajectories: label maps over time, and the colors, boxes and token labels computed from them.

A trajectory `ids` is uint8 [T, H, W]: 0 is the background and l = 1..8 is object l. Only this
module defines the colors of objects. All functions run on the host, in NumPy.
"""

import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ttm_jax.atomic import flush, flush_tree, new_folder
from ttm_jax.color_labels import labels_of
from ttm_jax.errors import InputError, nearest
from ttm_jax.media.label_images import list_masks, read_masks

MAX_OBJECTS = 8
LABELS = MAX_OBJECTS + 1  # Includes the background.


def _colors(hexadecimal: str) -> np.ndarray:
  return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 3)


PALETTES: dict[str, np.ndarray] = {
  # Corners of the RGB cube, and orange. L2 distances: at least 127 levels between two colors, at
  # least 255 to black.
  'spread8': _colors('ff0000 00ff00 0000ff ffff00 ff00ff 00ffff ff8000 ffffff'),
  # Half of entries 1..8 of supervision's default palette: its MaskAnnotator (opacity 0.5) on black,
  # as in the videos on the paper's project page. Use it for two objects at most, since object 3 is
  # close to 1 and 2.
  'supervision_half': np.rint(
    0.5 * _colors('ff4040 ffa1a0 ff7633 ffb633 d1d435 4cfb12 94cf1a 40de8a')
  ).astype(np.uint8),
}
"""uint8 [8, 3] by name; row l - 1 is the RGB color of object l. The background is black."""

MaskKind = Literal['box', 'seg', 'dilated_box']


def check_ids(ids: np.ndarray, ndim: int | None = 3) -> None:
  """Raise InputError unless `ids` is uint8, has `ndim` dimensions (None: any) and values <= 8."""
  if ids.dtype != np.uint8 or (ndim is not None and ids.ndim != ndim):
    kind = {None: '[..., H, W]', 2: '[H, W]', 3: '[T, H, W]'}[ndim]
    raise InputError(f'a label map must be uint8 {kind}, got {ids.dtype} {list(ids.shape)}')
  if (highest := int(ids.max(initial=0))) > MAX_OBJECTS:
    raise InputError(f'a label map holds object {highest}, but objects are numbered 1..8')


def relabel(ids: np.ndarray, labels: Mapping[int, int]) -> np.ndarray:
  """Return a label map uint8 [...] with label l replaced by `labels[l]`, other labels by 0."""
  table = np.zeros(256, np.uint8)
  table[list(labels)] = list(labels.values())
  return table[ids]


def label_colors(palette: str) -> np.ndarray:
  """Return the colors of all labels, black first: uint8 [9, 3].

  Raises:
    InputError: If the palette is unknown.
  """
  if palette not in PALETTES:
    known = ', '.join(PALETTES)
    raise InputError(f'no palette "{palette}"{nearest(palette, PALETTES)}; there are {known}')
  return np.concatenate([np.zeros((1, 3), np.uint8), PALETTES[palette]])


def render(ids: np.ndarray, palette: str = 'spread8') -> np.ndarray:
  """Render a label map as colors.

  Args:
    ids: uint8 [..., H, W].
    palette: A key of PALETTES.

  Returns:
    RGB, uint8 [..., H, W, 3].

  Raises:
    InputError: If `ids` is not a label map or the palette is unknown.
  """
  check_ids(ids, ndim=None)
  return np.take(label_colors(palette), ids, axis=0)


def decode(rgb: np.ndarray, first: np.ndarray | None, palette: str = 'spread8') -> np.ndarray:
  """Decode a label map from rendered frames, such as decoded samples, which may be blurred.

  Each pixel gets the label of the nearest color (L2 in RGB) among black and the palette; blurred
  edges are told from third colors (see `color_labels`). An edge is put at half of the way between
  two colors, on black at half of the object's brightness. A lower, fixed threshold for black would
  enlarge all objects; for small ones the IoU after a codec would drop by a sixth.

  No new objects appear after frame 0: colors of objects that `first` lacks are not considered, so
  that artifacts become neither holes nor objects.

  Args:
    rgb: Rendered frames, uint8 [T, H, W, 3].
    first: Ground truth label map of frame 0, uint8 [H, W], which becomes frame 0 of the result. If
      None, all colors of the palette are considered.
    palette: The palette that the frames were rendered with, a key of PALETTES.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If `rgb` or `first` has the wrong dtype or shape, or the palette is unknown.
  """
  table = label_colors(palette)
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
  ids = allowed[labels_of(rgb, table[allowed])]
  if first is not None:
    ids[0] = first
  return ids


def from_logits(logits: np.ndarray) -> np.ndarray:
  """Convert mask logits to a label map: each pixel gets the object of the largest logit above 0.

  Ties go to the object with the smaller area in that frame, then to the lower index.

  Args:
    logits: Float [T, n, H, W], n <= 8.

  Returns:
    uint8 [T, H, W]; object i of the logits has the label i + 1.
  """
  areas = (logits > 0).sum((2, 3))
  result = np.zeros((len(logits), *logits.shape[2:]), np.uint8)
  for frame, (scores, area) in enumerate(zip(logits, areas, strict=True)):
    best = np.zeros(scores.shape[1:], scores.dtype)
    for i in np.argsort(area, kind='stable'):  # Strict comparison: ties stay with smaller objects.
      np.copyto(result[frame], np.uint8(i + 1), where=scores[i] > best)
      np.maximum(best, scores[i], out=best)
  return result


def boxes(ids: np.ndarray, num_objects: int = MAX_OBJECTS) -> np.ndarray:
  """Return the tight bounding box of each object in each frame.

  Args:
    ids: uint8 [T, H, W] without objects above `num_objects`.
    num_objects: L, 1..8.

  Returns:
    int32 [T, L, 4]: x0, y0, x1, y1 in pixels, x1 and y1 exclusive; zeros for absent objects.

  Raises:
    InputError: If `ids` is not a label map or has an object above `num_objects`.
  """
  check_ids(ids)
  if (highest := int(ids.max(initial=0))) > num_objects:
    raise InputError(f'the label map holds object {highest}, but boxes of {num_objects} were asked')
  # All objects at once: one object set (8 bits) per pixel, reduced with OR along rows and columns.
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
  """Return the size of a token in pixels, (height, width)."""
  (height, width), (h, w) = ids.shape[-2:], grid
  if min(grid) < 1 or height % h or width % w:
    raise InputError(f'a grid of {h}x{w} tokens does not divide a picture of {_size(ids)} pixels')
  return height // h, width // w


def _cell_counts(ids: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Return the number of pixels of each label in each cell of each frame: int [T, h, w, 9]."""
  (frames, height, width), (h, w) = ids.shape, grid
  cell_height, cell_width = _cell_size(ids, grid)
  row, column = np.arange(height) // cell_height, np.arange(width) // cell_width
  start = LABELS * (np.arange(frames)[:, None, None] * (h * w) + row[:, None] * w + column)
  counts = np.bincount((start + ids).ravel(), minlength=frames * h * w * LABELS)
  return counts.reshape(frames, h, w, LABELS)


def areas(ids: np.ndarray) -> np.ndarray:
  """Return the area of each label in each frame, in pixels, background first: int [T, 9].

  Args:
    ids: uint8 [T, H, W].

  Raises:
    InputError: If `ids` is not a label map.
  """
  check_ids(ids)
  return _cell_counts(ids, (1, 1))[:, 0, 0]


def _group_starts(ids: np.ndarray, groups: npt.ArrayLike) -> np.ndarray:
  """Return the first pixel frame of each latent frame: int [t]."""
  groups = np.asarray(groups)
  steps = np.diff(groups, prepend=-1) if groups.ndim == 1 and groups.size else np.zeros(1)
  if groups.shape != ids.shape[:1] or steps[0] != 1 or not np.isin(steps, (0, 1)).all():
    raise InputError(
      f'frame groups must number the latent frame of each of {len(ids)} pixel frames, from 0'
      f' without gaps, got {np.array2string(groups, threshold=8)}'
    )
  return np.flatnonzero(steps)


def token_regions(ids: np.ndarray, groups: npt.ArrayLike, grid: tuple[int, int]) -> np.ndarray:
  """Return the label of each token, for masked self-attention (paper, section 3.3).

  A token gets the label with the most pixels in its volume (its cell in all frames of its group).
  Ties go to the object with fewer pixels in the latent frame, then to the lower label; the
  background loses every tie.

  Every object that is visible in a latent frame gets a token, if there are at least as many tokens
  as objects. An object without one takes over the token with the most of its pixels that is not
  the last token of another object; ties go to the token nearest to its centroid. Smaller objects
  choose first.

  Args:
    ids: uint8 [T, H, W].
    groups: Latent frame of each pixel frame, int [T], non-decreasing from 0 without gaps.
    grid: Tokens along (height, width) of a latent frame; divides (H, W).

  Returns:
    uint8 [t, h, w], 0 is the background.

  Raises:
    InputError: If `ids` is not a label map, `groups` is invalid or `grid` does not divide (H, W).
  """
  check_ids(ids)
  counts = np.add.reduceat(_cell_counts(ids, grid), _group_starts(ids, groups), axis=0)
  sizes = counts.sum(axis=(1, 2))  # [t, 9]
  key = sizes.copy()
  key[:, 0] = sizes.sum(-1) + 1  # Sorts the background last.
  order = key.argsort(axis=-1, kind='stable')
  ranked = np.take_along_axis(counts, order[:, None, None], axis=-1)
  winner = ranked.argmax(axis=-1)  # The first maximum, so ties go to the smallest object.
  regions = np.take_along_axis(order[:, None, None], winner[..., None], axis=-1)[..., 0]

  owned = (regions[..., None] == np.arange(LABELS)).any(axis=(1, 2))
  homeless = np.take_along_axis((sizes > 0) & ~owned, order, axis=-1)[:, :MAX_OBJECTS]
  for frame, rank in np.argwhere(homeless):  # Smallest first within a frame.
    label = order[frame, rank]
    _give_token(regions[frame], counts[frame, ..., label], label)
  return regions.astype(np.uint8)


def _give_token(region: np.ndarray, count: np.ndarray, label: int) -> None:
  """Assign a token to an object that has none, in place; see `token_regions`.

  Do nothing if every token is the last one of another object.

  Args:
    region: int [h, w], the labels so far.
    count: int [h, w], pixels of the object in each token.
    label: The object.
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
  """Return the object set of each token, for masked cross-attention (paper, section 3.3).

  An object is present at a token if its tight box covers at least half of the token's cell, or has
  its center there. Any frame of the token's group suffices. An object is therefore present at some
  token in every frame that shows it. Since boxes overlap, a token may have several objects. The
  object that a token belongs to (`token_regions`) is always present.

  Args:
    ids: uint8 [T, H, W].
    groups: See `token_regions`.
    grid: See `token_regions`.
    mask: 'box' uses the tight box as above. 'dilated_box' extends it by half a token on each side,
      within the image, to tolerate small errors of generated trajectories. 'seg' uses the object's
      pixels: they cover half of the cell, or more of it than of any other cell.
    regions: The result of `token_regions` for the same arguments, if already computed.

  Returns:
    int32 [t, h, w]; bit l is set for object l, bit 0 is never set.

  Raises:
    InputError: See `token_regions`; or if `mask` is unknown.
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
  """Return whether each object's box covers half of a cell or is centered there: [T, 8, h, w]."""
  x0, y0, x1, y1 = np.moveaxis(boxes(ids), -1, 0)[..., None]  # Each [T, 8, 1].

  def along(start, end, cells, cell_size):
    low = np.arange(cells) * cell_size
    margin = np.where(end > start, cell_size // 2 if grow else 0, 0)
    # No clipping of a dilated box is needed, since cells end at the image border.
    overlap = np.minimum(end + margin, low + cell_size) - np.maximum(start - margin, low)
    is_center = ((start + end) // (2 * cell_size) == np.arange(cells)) & (end > start)
    return np.maximum(overlap, 0), is_center

  cell_height, cell_width = _cell_size(ids, grid)
  overlap_y, center_y = along(y0, y1, grid[0], cell_height)
  overlap_x, center_x = along(x0, x1, grid[1], cell_width)
  covered = overlap_y[..., :, None] * overlap_x[..., None, :]
  centered = center_y[..., :, None] & center_x[..., None, :]
  return (2 * covered >= cell_height * cell_width) | centered


def _cells_of_pixels(ids: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Return whether each object covers half of a cell or has most pixels there: [T, 8, h, w]."""
  counts = np.moveaxis(_cell_counts(ids, grid)[..., 1:], -1, 1)
  flat = counts.reshape(*counts.shape[:2], -1)
  best = flat.argmax(-1)[..., None] == np.arange(flat.shape[-1])
  cell_height, cell_width = _cell_size(ids, grid)
  there = (2 * flat >= cell_height * cell_width) | (best & (flat > 0))
  return there.reshape(counts.shape)


def overlay(video: np.ndarray, ids: np.ndarray, palette: str = 'spread8') -> np.ndarray:
  """Overlay a video with its label map, for visualization.

  Args:
    video: uint8 [T, H, W, 3].
    ids: uint8 [T, H, W].
    palette: A key of PALETTES.

  Returns:
    uint8 [T, H, W, 3]. Objects are blended with 2/5 of their color; their outlines have the pure
    color. Outlines are 1 pixel wide per 256 pixels of the shorter side, and at least 1.

  Raises:
    InputError: If `ids` is not a label map, `video` does not match it or the palette is unknown.
  """
  check_ids(ids)
  if video.dtype != np.uint8 or video.shape != (*ids.shape, 3):
    raise InputError(
      f'a video under label maps of {list(ids.shape)} must be uint8 {[*ids.shape, 3]},'
      f' got {video.dtype} {list(video.shape)}'
    )
  color = render(ids, palette)
  rim = np.zeros(ids.shape, bool)
  for distance in range(1, max(1, round(min(ids.shape[1:]) / 256)) + 1):
    for axis in (1, 2):
      ahead = np.take(ids, range(distance, ids.shape[axis]), axis)
      behind = np.take(ids, range(ids.shape[axis] - distance), axis)
      differs = ahead != behind
      np.moveaxis(rim, axis, 0)[distance:] |= np.moveaxis(differs, axis, 0)
      np.moveaxis(rim, axis, 0)[:-distance] |= np.moveaxis(differs, axis, 0)
  tinted = ((video.astype(np.uint16) * 3 + color.astype(np.uint16) * 2) // 5).astype(np.uint8)
  inside = ids > 0
  result = np.where(inside[..., None], tinted, video)
  return np.where((rim & inside)[..., None], color, result)


def write_folder(path: str | os.PathLike, ids: np.ndarray) -> None:
  """Write a label map losslessly as palette PNGs `00000.png`, `00001.png`, ...

  Image viewers show them in the colors of `spread8`. A missing folder is created. Existing frames
  are replaced only after all new ones are on disk; other files are kept.

  Args:
    path: The folder.
    ids: uint8 [T, H, W].

  Raises:
    InputError: If `ids` is not a label map, the folder contains other PNGs (see `check_folder`) or
      it cannot be written.
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
  """Check that a label map of `frames` frames can be written to a folder; it need not exist.

  Raises:
    InputError: If `path` is not a folder; if it contains a PNG that `read_folder` would read as
      another frame; or if a frame's name is taken by something other than a regular file.
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
  """Encode one label map, uint8 [H, W], as a palette PNG."""
  picture = Image.fromarray(frame)
  picture.putpalette(label_colors('spread8').tobytes())  # Mode P; values stay.
  file = io.BytesIO()
  picture.save(file, 'PNG')
  return file.getvalue()


def read_folder(path: str | os.PathLike, notes: list[str] | None = None) -> np.ndarray:
  """Read a folder of mask images, one per frame, in the order of the numbers in their names.

  Palette, gray and color images are supported; see `label_images` for their interpretation.

  Args:
    path: The folder.
    notes: List that receives messages for the user about conversions of the values.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the folder is missing or has no images, an image is unreadable or differs in
      size, or the interpretation is ambiguous.
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
  """Read one mask image that has at least one object.

  Args:
    path: The image file.
    notes: As in `read_folder`.

  Returns:
    Label map, uint8 [H, W].

  Raises:
    InputError: If the image is unreadable, its interpretation is ambiguous, or it has no object.
  """
  file = pathlib.Path(path)
  (mask,) = read_masks([file], PALETTES['spread8'], str(file), notes)
  if not mask.any():
    raise InputError(f'{path} shows no object; give each object a number, 1..8, as its value')
  return mask
