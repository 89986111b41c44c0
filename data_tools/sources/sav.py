"""The SA-V dataset: 24 fps videos with masklets on every fourth frame.

The format is that of `sav_dataset` in facebookresearch/sam2. Each `ID.mp4` comes with
`ID_manual.json` and `ID_auto.json`. `masklet[i][j]` is the mask of masklet j on frame 4 i, in COCO
run-length encoding (RLE); the mask is empty if the object is not visible. Masks between annotated
frames are interpolated, see `sources.mask_interpolation`; clips at 6 fps need no interpolation.

Variants written by other programs are read as well: null masks, run lengths as lists or as printed
bytes, and files that annotate different numbers of frames.

Object ids start from 1: manual masklets first, in file order. Where masklets overlap, the smaller
one is on top, or the first of two equal ones. SA-V has no captions. They come from a captions file
with these object ids, or from the steps caption, prompts, detect and match.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sources.base import NOTHING_SAID, VIDEOS, Video, check_folder, unique
from data_tools.sources.decode import Probe
from data_tools.sources.descriptions import Description
from data_tools.sources.mask_interpolation import between
from ttm_jax.errors import InputError
from ttm_jax.media.video_reader import is_video

EVERY = 4  # Frames from one annotation to the next.
MAX_LABELS = 255
KINDS = ('manual', 'auto')


@dataclasses.dataclass(frozen=True)
class SavMasks:
  """The masks of one video, read from its annotation files; implements `base.Masks`.

  Attributes:
    files: annotation files, in the order in which their masklets are numbered.
  """

  files: tuple[str, ...]

  @property
  def paths(self) -> tuple[str, ...]:
    return self.files

  def check(self, path: str, seen: Probe) -> None:
    content = _load(self.files)
    if content.size != seen.size:
      remedy = 'use the files of one video'
      if content.size == seen.size[::-1]:
        remedy = 'write "size" as [height, width] of the video as shown, for masks of that shape'
      raise InputError(
        f'{self.files[0]}: its masks are {content.size[1]}x{content.size[0]}, but {path} is'
        f' {seen.size[1]}x{seen.size[0]}; {remedy}'
      )
    last = (content.count - 1) * EVERY
    if last >= seen.frames:
      raise InputError(
        f'{self.files[0]}: annotates frame {last}, but {path} ends with frame {seen.frames - 1};'
        ' use the files of one video'
      )

  def window(self, numbers: Sequence[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    content = _load(self.files)
    # The last annotation is valid until the frame at which the next one would be.
    last = max(numbers)
    if last >= content.count * EVERY:
      raise InputError(
        f'{self.files[0]}: annotations end with frame {(content.count - 1) * EVERY}, but the video'
        f' goes on; windows that reach frame {content.count * EVERY} are left out'
      )

    @functools.cache
    def annotated(index: int) -> np.ndarray:
      try:
        return fit(label_map(content.masks(index, last), content.size))
      except InputError as error:
        raise InputError(f'{self.files[0]}: annotated frame {index}: {error}') from error

    maps = []
    for number in numbers:
      index, rest = divmod(number, EVERY)
      after = min(index + 1, content.count - 1) if rest else index
      maps.append(between(annotated(index), annotated(after), rest / EVERY))
    return np.stack(maps)

  def notes(self) -> list[str]:
    counts = [len(frames) for frames in _load(self.files).files]
    if len({*counts}) == 1:
      return []
    each = (f'{Path(file).name} {n}' for file, n in zip(self.files, counts, strict=True))
    return [f'annotated frames of {", ".join(each)}; objects are background in later windows']


@dataclasses.dataclass(frozen=True)
class Masklets:
  """The encoded masklets of one video.

  Attributes:
    files: for each annotation file, encoded masks [annotated frame][masklet]; None if a masklet is
      not visible.
    size: (H, W) of all masks, in pixels.
  """

  files: Sequence[Sequence[Sequence[Mapping[str, Any] | None]]]
  size: tuple[int, int]

  @property
  def count(self) -> int:
    """The number of annotated frames."""
    return max(len(frames) for frames in self.files)

  def masks(self, index: int, last: int) -> list[Mapping[str, Any] | None]:
    """Return the encoded masks of one annotated frame.

    If a file ends before the window does, its masklets are treated as not visible in the whole
    window.

    Args:
      index: number of the annotated frame, from 0.
      last: last video frame of the window.
    """
    seen: list[Mapping[str, Any] | None] = []
    for frames in self.files:
      known = len(frames) == self.count or last <= (len(frames) - 1) * EVERY
      seen += frames[min(index, len(frames) - 1)] if known else [None] * len(frames[0])
    return seen


def label_map(masks: Sequence[Mapping[str, Any] | None], size: tuple[int, int]) -> np.ndarray:
  """Merge the RLE masks of one frame into a label map, smaller masks on top.

  Args:
    masks: COCO run-length encodings; mask j becomes label j + 1. None is an empty mask.
    size: (H, W) in pixels.

  Returns:
    uint8 [H, W].

  Raises:
    InputError: if the run lengths of a mask do not add up to its size.
  """
  decoded = {j: decode_rle(mask) for j, mask in enumerate(masks) if mask is not None}
  sizes = {j: int(mask.sum()) for j, mask in decoded.items()}
  result = np.zeros(size, np.uint8)
  for j in sorted(decoded, key=lambda j: (-sizes[j], -j)):
    result[decoded[j]] = j + 1
  return result


def decode_rle(encoded: Mapping[str, Any]) -> np.ndarray:
  """Decode a COCO run-length encoding into bool [H, W].

  Args:
    encoded: a dict of `size` ([height, width]) and `counts`: compressed text, its Python bytes
      literal (b'...'), or a list of run lengths.

  Raises:
    InputError: if the run lengths do not add up to `size`, or cannot be parsed.
  """
  from pycocotools import mask

  height, width = encoded['size']
  counts = encoded['counts']
  wrong = InputError(
    f'the run lengths of a mask do not give {width}x{height} pixels; download the file again'
  )
  try:
    if isinstance(counts, str):
      if counts[:2] in ("b'", 'b"'):
        counts = counts[2:-1].replace('\\\\', '\\')
      lengths = counts_of(counts)
    else:
      lengths = [int(n) for n in counts]
      if lengths != list(counts):
        raise wrong
    if sum(lengths) != height * width or min(lengths) < 0:
      # pycocotools would fill the missing pixels with uninitialized memory.
      raise wrong
    whole: dict[str, Any] = {'size': [height, width], 'counts': counts}
    if not isinstance(counts, str):
      whole = mask.frPyObjects({**whole, 'counts': lengths}, height, width)
    return mask.decode(whole).astype(bool)
  except (TypeError, ValueError, OverflowError) as error:
    raise wrong from error


def counts_of(text: str) -> list[int]:
  """Return the run lengths of a compressed COCO encoding (the string format of pycocotools).

  Each number is a sequence of characters, with an offset of 48 ('0'). A character has five bits of
  the number, least significant first, and a sixth bit that is set if more characters follow. The
  numbers are signed. From the fourth on, each is the difference to the run length two before.
  """
  counts: list[int] = []
  value, shift = 0, 0
  for letter in text.encode():
    group = letter - 48
    value |= (group & 0x1F) << shift
    shift += 5
    if not group & 0x20:
      if group & 0x10:
        value -= 1 << shift
      counts.append(value + (counts[-2] if len(counts) > 2 else 0))
      value, shift = 0, 0
  return counts


def read_annotations(path: str | Path) -> dict[str, Any]:
  """Read and validate one annotation file of SA-V.

  Raises:
    InputError: if the file cannot be read, is not in the SA-V format, or its masks differ in number
      or size.
  """
  try:
    content = json.loads(Path(path).read_text(encoding='utf-8-sig'))
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from error
  except (ValueError, RecursionError) as error:
    raise InputError(f'{path}: not valid JSON ({error}); download it again') from error
  try:
    frames, number = content['masklet'], len(content['masklet_id'])
    counts = {len(frame) for frame in frames}
    masks = [mask for frame in frames for mask in frame if mask is not None]
    sizes = {tuple(mask['size']) for mask in masks}
    kinds = {type(mask['counts']) for mask in masks}
    ids = {str(masklet) for masklet in content['masklet_id']}
  except (TypeError, KeyError) as error:
    raise InputError(f'{path}: not an annotation of SA-V ({error!r} is missing)') from error
  if counts != {number} or not number or not kinds <= {str, list}:
    raise InputError(f'{path}: a frame does not have one mask per masklet; download it again')
  if len(ids) < number:
    raise InputError(f'{path}: two masklets have the same id; download it again')
  if len(sizes) != 1:
    raise InputError(f'{path}: its masks have {len(sizes)} different sizes; download it again')
  (size,) = sizes
  if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
    raise InputError(f'{path}: its masks have the size {list(size)}; write [height, width]')
  return content


def _load(files: tuple[str, ...]) -> Masklets:
  """Return the masklets of the annotation files of one video, cached until a file changes."""
  return _load_once(files, tuple(os.path.getmtime(file) for file in files))


@functools.lru_cache(maxsize=2)
def _load_once(files: tuple[str, ...], _: tuple[float, ...]) -> Masklets:
  contents = [read_annotations(file)['masklet'] for file in files]
  sizes = [
    next(tuple(mask['size']) for frame in frames for mask in frame if mask) for frames in contents
  ]
  if len({*sizes}) > 1:
    raise InputError(
      f'{files[0]} and {files[1]}: masks of different sizes; use the files of one video'
    )
  count = sum(len(frames[0]) for frames in contents)
  if count > MAX_LABELS:
    raise InputError(
      f'{files[0]}: {count} masklets, more than {MAX_LABELS}; read fewer with --masklets manual'
    )
  return Masklets(contents, sizes[0])


def _films(root: Path) -> list[Path]:
  """Return the video files under a folder; of ID.mp4 and ID.mov, the one first in `VIDEOS`."""
  found = [path for path in root.rglob('*') if is_video(path)]
  found.sort(key=lambda path: (VIDEOS.index(path.suffix.lower()), path))
  return sorted({path.with_suffix(''): path for path in reversed(found)}.values())


def sav_videos(
  root: Path,
  captions: Mapping[str, Description] | None = None,
  kinds: Sequence[str] = KINDS,
  excluded: frozenset[str] = frozenset(),
) -> tuple[list[Video], list[str]]:
  """Return the annotated videos under `root`.

  Args:
    root: folder of the dataset.
    captions: descriptions by video id, or None.
    kinds: which annotations to read, of `manual` and `auto`.
    excluded: ids to exclude, such as those of the benchmark.

  Returns:
    The videos, and the excluded ids that were found.

  Raises:
    InputError: if `root` is not a folder, or no annotated video is found.
  """
  check_folder(root)
  videos, left_out = [], []
  for path in _films(root):
    files = tuple(
      str(file) for kind in kinds if (file := path.with_name(f'{path.stem}_{kind}.json')).is_file()
    )
    if not files:
      continue
    if path.stem in excluded:
      left_out.append(path.stem)
      continue
    said = (captions or {}).get(path.stem, NOTHING_SAID)
    videos.append(Video(path.stem, str(path), said, SavMasks(files)))
  if not videos:
    raise InputError(
      f'{root}: contains no ID.mp4 beside its ID_manual.json or ID_auto.json'
      + (f', except {len(left_out)} that --exclude lists' if left_out else '')
      + '; check the path'
    )
  return unique(videos, str(root)), left_out
