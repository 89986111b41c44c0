"""Videos with one label image per frame, as in video object segmentation (VOS) datasets like DAVIS.

Three layouts are supported and may be mixed under one root:

    KEY/video.mp4  KEY/masks/00000.png ...            a video of any format, or
                                                      a folder of images, next to masks
    KEY/JPEGImages/00000.jpg ...  KEY/Annotations/00000.png ...
    JPEGImages/KEY/00000.jpg ...  Annotations/KEY/00000.png ...   also one level deeper (480p)

Masks may have any format that `ttm_jax.media.label_images` reads; all masks of a video are
interpreted in the same way. Images and masks are matched by name, or by the numbers in their names.
Of several resolutions, the smallest is read. Captions come from a JSON file, see
`data_tools.sources.descriptions`; without it, the steps provide captions and objects.
"""

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_tools.sources.base import NOTHING_SAID, Video, check_folder, inside, unique, within
from data_tools.sources.decode import Probe
from data_tools.sources.descriptions import Description
from ttm_jax.errors import InputError
from ttm_jax.media.images import is_clutter, list_pictures
from ttm_jax.media.label_images import Meaning, list_masks, mask_size, meaning_of, read_mask_file
from ttm_jax.media.video_reader import is_video
from ttm_jax.trajectory import PALETTES

_RESOLUTION = re.compile(r'\d+p|full.?res\w*|\d+x\d+|\dk|u?hd', re.IGNORECASE)
_MASKS = ('masks', 'Annotations')  # Preferred names of a folder of masks, in order.
_RENAME = 'give each mask the name of its image'
_COMPLETE = 'add the missing masks, or remove the images without a mask'


@dataclasses.dataclass(frozen=True)
class FileMasks:
  """A folder with one mask per frame; implements `base.Masks`.

  Attributes:
    folder: folder of the masks.
    pictures: folder of the frames; '' if the frames are a video file.
    note: note for the report, if one of several resolutions was chosen.
  """

  folder: str
  pictures: str = ''
  note: str = ''

  @property
  def paths(self) -> tuple[str, ...]:
    return (self.folder,)

  def check(self, path: str, seen: Probe) -> None:
    files = self._files().files
    height, width = mask_size(files[0])
    if (height, width) != seen.size:
      raise InputError(
        f'{path}: is {seen.size[1]}x{seen.size[0]}, but its masks are {width}x{height};'
        ' resize the masks, by nearest neighbour'
      )
    if seen.hidden and len(files) == seen.frames + seen.hidden:
      raise InputError(
        f'{path}: stores {len(files)} frames, of which an edit list hides {seen.hidden}; there are'
        f' masks for all {len(files)}, remove those of the frames that a player does not show'
      )
    if len(files) != seen.frames:
      raise InputError(
        f'{path}: has {seen.frames} frames, but there are {len(files)} masks; give one mask per'
        ' frame'
      )
    if not self.pictures:
      check_numbers(files, path)
    self._meaning()

  def window(self, numbers: Sequence[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    files, meaning = self._files().files, self._meaning()
    return np.stack([fit(read_mask_file(files[number], meaning)) for number in numbers])

  def notes(self) -> list[str]:
    said = [self.note, self._files().note, *self._meaning().notes]
    return [note for note in said if note]

  def _key(self) -> tuple[str, str, int, int]:
    stamps = (os.stat(f).st_mtime_ns if f else 0 for f in (self.folder, self.pictures))
    return self.folder, self.pictures, *stamps  # type: ignore[return-value]

  def _files(self) -> 'Listed':
    return _listed(*self._key())

  def _meaning(self) -> Meaning:
    return _understood(*self._key())


@dataclasses.dataclass(frozen=True)
class Listed:
  """The mask files of a video.

  Attributes:
    files: one file per frame, in order.
    note: note for the report on how masks were matched to frames; '' for none.
  """

  files: tuple[Path, ...]
  note: str = ''


@functools.lru_cache(maxsize=2)
def _listed(folder: str, pictures: str, *_: int) -> Listed:
  """Return the masks of a folder; cached, so that it is not listed again for each window."""
  masks = list_masks(Path(folder))
  if not masks:
    raise InputError(f'{folder}: contains no masks; add one PNG per frame')
  if not pictures:
    return Listed(tuple(masks))
  return pair(list_pictures(Path(pictures)), masks, pictures)


@functools.lru_cache(maxsize=2)
def _understood(folder: str, pictures: str, *stamps: int) -> Meaning:
  """Return how to interpret the masks, by examining all of them once."""
  return meaning_of(_listed(folder, pictures, *stamps).files, PALETTES['spread8'], folder)


def pair(pictures: Sequence[Path], masks: Sequence[Path], where: str) -> Listed:
  """Match each image to the mask of the same name, or else of the same number.

  If no name or number matches, and there are as many masks as images, match them in order.

  Args:
    pictures: image files, in order.
    masks: mask files, in order.
    where: folder of the images, for error messages.

  Raises:
    InputError: if an image has no mask, or two masks have the same name.
  """
  stems = {mask.stem: mask for mask in masks}
  if len(stems) < len(masks):
    twice = next(mask for mask in masks if stems[mask.stem] != mask)
    raise InputError(f'{where}: two masks have the name {twice.stem}; remove one')
  wanted: Sequence = [picture.stem for picture in pictures]
  there: Sequence = [mask.stem for mask in masks]
  if not {*wanted} <= {*there}:
    numbers, of_masks = _numbers(pictures), _numbers(masks)
    if numbers and of_masks and len(numbers[0]) == len(of_masks[0]):
      wanted, there = numbers, of_masks
  by_name = dict(zip(there, masks, strict=True))
  without = [picture for picture, name in zip(pictures, wanted, strict=True) if name not in by_name]
  left = [mask for mask, name in zip(masks, there, strict=True) if name not in {*wanted}]
  if not without:
    note = f'{len(left)} masks without an image ignored, such as {left[0].name}' if left else ''
    return Listed(tuple(by_name[name] for name in wanted), note)
  if len(without) == len(pictures) == len(masks):
    return Listed(tuple(masks), f'masks assigned to the images in order, from {masks[0].name}')
  over = f', and {left[0].name} belongs to no image' if left else ''
  more = f' and {len(without) - 1} others have' if len(without) > 1 else ' has'
  raise InputError(
    f'{where}: has {len(pictures)} frames, but there are {len(masks)} masks:'
    f' {without[0].name}{more} no mask{over}; {_RENAME if left else _COMPLETE}'
  )


def check_numbers(masks: Sequence[Path], where: str) -> None:
  """Raise InputError if the mask numbers have gaps, so that some frames have no mask."""
  numbers = [number[0] for number in _numbers(masks) or () if len(number) == 1]
  steps = {b - a for a, b in itertools.pairwise(numbers)}
  if len(steps) > 1:
    a, b = next((a, b) for a, b in itertools.pairwise(numbers) if b - a != min(steps))
    raise InputError(
      f'{where}: its masks are numbered with a gap between {a} and {b}; number them as the frames'
      ' of the video'
    )


def _numbers(files: Sequence[Path]) -> list[tuple[int, ...]] | None:
  """Return the numbers that distinguish the file names, or None if they do not distinguish them."""
  found = [tuple(int(n) for n in re.findall(r'\d+', file.stem)) for file in files]
  if len({len(numbers) for numbers in found}) != 1 or not found[0]:
    return None
  varying = [i for i, column in enumerate(zip(*found, strict=True)) if len({*column}) > 1] or [-1]
  numbers = [tuple(each[i] for i in varying) for each in found]
  return numbers if len({*numbers}) == len(files) else None


def vos_videos(
  root: Path, captions: Mapping[str, Description] | None, fps: float | None = None
) -> list[Video]:
  """Return the videos under `root`: those that `captions` describes, or all if it is None.

  A key without usable files gives a video with a `problem`, for the report.

  Args:
    root: folder of the videos.
    captions: descriptions by key, or None.
    fps: frames per second of folders of images.

  Raises:
    InputError: if `root` is not a folder or has no videos.
  """
  check_folder(root)
  annotations = root / 'Annotations'
  levels = _levels(annotations)
  if captions is None:
    keys = _keys(levels) if levels else [f.name for f in _folders(root)]
    captions = dict.fromkeys(sorted({*keys}), NOTHING_SAID)
  videos = []
  for key, said in captions.items():
    try:
      key = inside(root, key)
      path, masks = _of_levels(root, levels, key) or _of_folder(root, key)
      videos.append(Video(key, str(path), said, masks, fps))
    except InputError as error:
      videos.append(Video(key, str(root / key), said, problem=str(error)))
  return unique(videos, str(root))


def _of_levels(root: Path, levels: Sequence[Path], key: str) -> tuple[Path, FileMasks] | None:
  """Return images and masks from JPEGImages/KEY and Annotations/KEY, or None if missing."""
  found = []
  for level in levels:
    if (level / key).is_dir():
      pictures = root / 'JPEGImages'
      if level != root / 'Annotations' and (pictures / level.name).is_dir():
        pictures = pictures / level.name
      found.append((within(pictures, key), within(level, key), level.name))
  usable = [each for each in found if each[0].is_dir()] or found
  if not usable:
    return None
  path, masks, taken = usable[0]
  names = ', '.join(name for _, _, name in usable)
  note = f'resolution {taken} read, of {names}' if len(usable) > 1 else ''
  return path, FileMasks(str(masks), str(path) if path.is_dir() else '', note)


def _of_folder(root: Path, key: str) -> tuple[Path, FileMasks]:
  """Return the video or image folder, and the masks, of the folder KEY."""
  folder = within(root, key)
  path = video_of(folder)
  masks = masks_of(folder, path)
  return path, FileMasks(str(masks), str(path) if path.is_dir() else '')


def _levels(folder: Path) -> list[Path]:
  """Return the folders with one mask folder per video: resolutions, smallest first, then `folder`.

  A subfolder is a level if its name is a resolution (480p, Full-Resolution), or if it is the only
  one. Any other folder of folders is part of a key.
  """
  if not folder.is_dir() or list_masks(folder):
    return []
  inside = _folders(folder)
  deeper = [f for f in inside if _folders(f) and not list_masks(f)]
  if len(inside) == 1 and not list_masks(inside[0]):
    deeper = inside
  elif not all(_RESOLUTION.fullmatch(f.name) for f in deeper):
    deeper = []

  def size(level: Path) -> tuple[bool, int, str]:
    number = re.search(r'\d+', level.name)
    return number is None, int(number[0]) if number else 0, level.name

  return [*sorted(deeper, key=size), folder]


def _keys(levels: Sequence[Path]) -> list[str]:
  """Return the keys of the videos in the folders of `_levels`; park/dog is a two-part key."""
  *resolutions, top = levels
  keys = [f.name for level in resolutions for f in _folders(level)]
  for folder in _folders(top):
    inside = [f for f in _folders(folder) if list_masks(f)]
    if inside and not list_masks(folder):
      keys += [f'{folder.name}/{f.name}' for f in inside if folder not in resolutions]
    elif folder not in resolutions:
      keys.append(folder.name)
  return keys


def _folders(folder: Path) -> list[Path]:
  return sorted(f for f in folder.iterdir() if f.is_dir() and not is_clutter(f))


def video_of(folder: Path) -> Path:
  """Return the video file of a folder, or its folder `JPEGImages`.

  Raises:
    InputError: if the folder does not exist, or there is not exactly one candidate.
  """
  if not folder.is_dir():
    raise InputError(
      f'{folder}: there is no such folder; correct the key in the captions file, or the path'
    )
  videos = [path for path in folder.iterdir() if is_video(path) and not path.is_dir()]
  mp4s = [path for path in videos if path.suffix.lower() == '.mp4']
  if not mp4s and (folder / 'JPEGImages').is_dir():
    return folder / 'JPEGImages'
  exact = [path for path in mp4s if path.name == 'video.mp4']
  named = [path for path in videos if path.stem.lower() == 'video']
  for some in (exact, mp4s, named, videos):
    if len(some) == 1:
      return some[0]
  raise InputError(f'{folder}: contains {len(videos)} video files; name the one to read video.mp4')


def masks_of(folder: Path, video: Path) -> Path:
  """Return the folder of masks next to a video.

  Raises:
    InputError: if there is not exactly one candidate.
  """
  found = {d: files for d in _folders(folder) if d != video and (files := list_masks(d))}
  for name in _MASKS:
    if folder / name in found:
      return folder / name
  formats = {d: files[0].suffix.lower() for d, files in found.items()}
  candidates = [d for d, ending in formats.items() if ending == '.png']
  candidates = candidates or [d for d, e in formats.items() if e not in ('.jpg', '.jpeg')]
  if len(candidates) != 1:
    raise InputError(
      f'{folder}: {len(candidates)} of its folders contain PNG files; name the one to read masks'
    )
  return candidates[0]
