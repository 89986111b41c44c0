"""SA-V: videos of 24 fps with masklets on every fourth frame (facebookresearch/sam2, sav_dataset).

Beside `ID.mp4` lie `ID_manual.json` and `ID_auto.json`. `masklet[i][j]` is the run-length encoded
mask (COCO) of masklet j on frame 4 i; an empty mask where it is not seen. No segmentation model is
needed. Between annotated frames shapes are interpolated (`sources.between`); at 6 fps none are.

Object ids: manual masklets first, in the order of the file, from 1. Where masklets overlap the
smaller one lies on top, of equals the first. SA-V has no captions: they come from a
captions file (with these object ids) or from the steps caption, prompts, detect and match.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sources.base import NOTHING_SAID, Video, unique
from data_tools.sources.between import between
from data_tools.sources.decode import Probe
from ttm_jax.data.folders import Description
from ttm_jax.errors import InputError

EVERY = 4  # Frames from one annotation to the next.
MAX_LABELS = 255
KINDS = ('manual', 'auto')


@dataclasses.dataclass(frozen=True)
class SavMasks:
  """The masklets of one video.

  Attributes:
    files: annotation files, in the order their masklets are numbered.
  """

  files: tuple[str, ...]

  def check(self, path: str, seen: Probe) -> None:
    annotated, size = _described(self.files)
    if size != seen.size:
      raise InputError(
        f'{self.files[0]}: its masks are {size[1]}x{size[0]}, but {path} is'
        f' {seen.size[1]}x{seen.size[0]}; take the files of one video'
      )
    last = (annotated - 1) * EVERY
    if last >= seen.frames:
      raise InputError(
        f'{self.files[0]}: annotates frame {last}, but {path} ends with frame {seen.frames - 1};'
        ' take the files of one video'
      )

  def window(self, numbers: Sequence[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    masklets = _load(self.files)
    count = len(masklets[0])

    @functools.cache
    def annotated(index: int) -> np.ndarray:
      try:
        return fit(label_map([masklet[index] for masklet in masklets]))
      except InputError as error:
        raise InputError(f'{self.files[0]}: annotated frame {index}: {error}') from error

    maps = []
    for number in numbers:
      index, rest = divmod(number, EVERY)
      # Up to three frames follow the last annotation; it holds for them.
      after = min(index + 1, count - 1) if rest else min(index, count - 1)
      maps.append(between(annotated(min(index, count - 1)), annotated(after), rest / EVERY))
    return np.stack(maps)


def label_map(masks: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """RLE masks of one frame as a label map, smaller masks on top.

  Args:
    masks: COCO run-length encodings; mask j becomes label j + 1.

  Returns:
    uint8 [H, W].
  """
  decoded = [decode_rle(mask) for mask in masks]
  sizes = [int(mask.sum()) for mask in decoded]
  result = np.zeros(decoded[0].shape, np.uint8)
  for j in sorted(range(len(decoded)), key=lambda j: (-sizes[j], -j)):
    result[decoded[j]] = j + 1
  return result


def decode_rle(encoded: Mapping[str, Any]) -> np.ndarray:
  """A COCO run-length encoding as bool [H, W]."""
  from pycocotools import mask

  height, width = encoded['size']
  if sum(counts_of(encoded['counts'])) != height * width:
    # The decoder would fill the rest with what lies in memory.
    raise InputError(f'a mask is not of its {width}x{height} pixels; download it again')
  return mask.decode(encoded).astype(bool)


def counts_of(text: str) -> list[int]:
  """The lengths of the runs in a compressed COCO encoding.

  Each is written in groups of five bits, least first, as letters from '0' on; the sixth bit says
  that more follow. From the third on, they are differences to the one before the last.
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
  """One annotation file of SA-V.

  Raises:
    InputError: it cannot be read, is not of SA-V, or its masks differ in number or size.
  """
  try:
    content = json.loads(Path(path).read_text(encoding='utf-8'))
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from error
  except ValueError as error:
    raise InputError(f'{path}: not valid JSON ({error}); download it again') from error
  try:
    frames, number = content['masklet'], len(content['masklet_id'])
    counts = {len(frame) for frame in frames}
    sizes = {tuple(mask['size']) for frame in frames for mask in frame}
    whole = all(isinstance(mask['counts'], str) for frame in frames for mask in frame)
  except (TypeError, KeyError) as error:
    raise InputError(f'{path}: not an annotation of SA-V ({error!r} is missing)') from error
  if counts != {number} or not number or not whole:
    raise InputError(f'{path}: a frame has not one mask a masklet; download it again')
  if len(set(content['masklet_id'])) < number:
    raise InputError(f'{path}: two masklets have one id; download it again')
  if len(sizes) != 1:
    raise InputError(f'{path}: masks of {len(sizes)} sizes; download it again')
  return content


def _load(files: tuple[str, ...]) -> list[list[dict[str, Any]]]:
  """The encoded masks [masklet][annotated frame] of the files of one video."""
  return _load_once(files, tuple(os.path.getmtime(file) for file in files))


@functools.lru_cache(maxsize=2)
def _load_once(files: tuple[str, ...], _: tuple[float, ...]) -> list[list[dict[str, Any]]]:
  contents = [read_annotations(file) for file in files]
  if len({(len(c['masklet']), *c['masklet'][0][0]['size']) for c in contents}) > 1:
    raise InputError(f'{files[0]} and {files[1]} do not describe one video')
  masklets = [
    [frame[j] for frame in c['masklet']] for c in contents for j in range(len(c['masklet'][0]))
  ]
  if len(masklets) > MAX_LABELS:
    raise InputError(f'{files[0]}: {len(masklets)} masklets, at most {MAX_LABELS} can be read')
  return masklets


def _described(files: tuple[str, ...]) -> tuple[int, tuple[int, int]]:
  """How many frames are annotated, and (H, W) of the masks."""
  masklets = _load(files)
  height, width = masklets[0][0]['size']
  return len(masklets[0]), (height, width)


def sav_videos(
  root: Path,
  captions: Mapping[str, Description] | None = None,
  kinds: Sequence[str] = KINDS,
  excluded: frozenset[str] = frozenset(),
) -> tuple[list[Video], list[str]]:
  """The annotated videos under `root`, by their ids.

  Args:
    captions: what is said of them, by id.
    kinds: which annotations to read, of manual and auto.
    excluded: ids to leave out, such as those of the benchmark.

  Returns:
    the videos, and the ids that were left out as excluded.

  Raises:
    InputError: there are none.
  """
  if not root.is_dir():
    raise InputError(f'{root}: there is no such folder; check the path')
  videos, left_out = [], []
  for path in sorted(root.rglob('*.mp4')):
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
      f'{root}: no ID.mp4 with an ID_manual.json or ID_auto.json beside it'
      + (f', but for {len(left_out)} excluded ones' if left_out else '')
    )
  return unique(videos, str(root)), left_out
