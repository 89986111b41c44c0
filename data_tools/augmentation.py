"""Cropped, mirrored and reversed variants of clips, with masks and texts that agree.

Draws depend only on the seed, the key of the clip and the number of the variant.
"""

import collections
import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from data_tools.motion_words import mirrored, reversed_in_time
from data_tools.sources.windows import Crop
from ttm_jax.data.schema import Clip

_TRIES = 16  # Crops that are drawn until one keeps the objects.
_LEAST_KEPT = 0.5  # Of the pixels of each object in frame 0.


@dataclasses.dataclass(frozen=True)
class Variation:
  """What is drawn for the variants of a clip.

  Attributes:
    variants: number of records per clip, at least 1; the first is the clip itself.
    crop: least side of a crop, relative to that of the frame, above 0 to 1; 1 for no crops.
    flip: whether every other variant is mirrored about its vertical axis, by chance.
    reverse: whether every other variant is played backwards, by chance.
    seed: random seed, at least 0.
  """

  variants: int
  crop: float = 0.7
  flip: bool = True
  reverse: bool = True
  seed: int = 0


class Varied(Sequence[Clip]):
  """The variants of clips, made on access: all of the first clip, then all of the second."""

  def __init__(self, clips: Sequence[Clip], variation: Variation):
    self.clips, self.variation = clips, variation

  def __len__(self) -> int:
    return len(self.clips) * self.variation.variants

  def __getitem__(self, index):
    """Return variant `index`, 0 <= index < len."""
    if not 0 <= index < len(self):
      raise IndexError(f'there is no variant {index} among {len(self)}')
    clip, number = divmod(index, self.variation.variants)
    return variant(self.clips[clip], self.variation, number)


def variant(clip: Clip, variation: Variation, number: int) -> Clip:
  """Return one variant of a clip.

  Args:
    clip: the clip.
    variation: what is drawn.
    number: of the variant; 0 is the clip itself.

  Returns:
    A clip of the same shape, whose key has `~` and the number at its end.
  """
  if not number:
    return clip
  rng = np.random.default_rng([variation.seed, zlib.crc32(clip.key.encode()), number])
  # All values are drawn, so that one option does not change what another one draws.
  flip, backwards = rng.random(2) < 0.5
  changed = dataclasses.replace(clip, key=f'{clip.key}~{number}')
  if variation.flip and flip:
    changed = flipped(changed) or changed
  if variation.reverse and backwards:
    changed = reversed_clip(changed)[0] or changed
  return cropped(changed, rng, variation.crop)


def flipped(clip: Clip) -> Clip | None:
  """Return a clip mirrored about its vertical axis; None if a text cannot be mirrored."""
  texts = [mirrored(text) for text in _texts(clip)]
  known = [text for text in texts if text is not None]
  if len(known) < len(texts):
    return None
  return _with_texts(clip, known, clip.video[:, :, ::-1], clip.ids[:, :, ::-1])


def reversed_clip(clip: Clip) -> tuple[Clip | None, str]:
  """Return a clip played backwards and an empty string; or None and why there is none.

  An object with a prompt must be visible in the last frame, which becomes the first.
  """
  prompted = {i for i, prompt in enumerate(clip.prompts, 1) if prompt}
  if prompted & {*np.unique(clip.ids[0]).tolist()} - {*np.unique(clip.ids[-1]).tolist()}:
    return None, 'an object is hidden in the last frame'
  texts, reason = reversed_in_time(_texts(clip))
  if reason:
    return None, reason
  return _with_texts(clip, texts, clip.video[::-1], clip.ids[::-1]), ''


def cropped(clip: Clip, rng: np.random.Generator, least: float) -> Clip:
  """Return a random part of the frames of a clip, resized to its size.

  The part has the frame's aspect ratio. It keeps at least half of each object in frame 0; after 16
  draws without such a part, return the clip.

  Args:
    clip: the clip.
    rng: random generator.
    least: least side of the part, relative to that of the frame, above 0 to 1.
  """
  height, width = size = clip.ids.shape[1:]
  areas = np.bincount(clip.ids[0].ravel(), minlength=256)
  for _ in range(_TRIES):
    side = rng.uniform(least, 1)
    x, y = rng.uniform(0, 1 - side, 2) if side < 1 else (0.0, 0.0)
    box = x * width, y * height, (x + side) * width, (y + side) * height
    crop = Crop(size, size, box)
    ids = np.stack([crop.labels(frame) for frame in clip.ids])
    kept = np.bincount(ids[0].ravel(), minlength=256) * side**2
    if (kept[1:] >= _LEAST_KEPT * areas[1:]).all():
      video = np.stack([crop.pixels(frame) for frame in clip.video])
      return dataclasses.replace(clip, video=video, ids=ids)
  return clip


def possible(clips: Sequence[Clip]) -> tuple[int, int, collections.Counter[str]]:
  """Return how many clips can be mirrored, how many reversed, and why the others cannot.

  Args:
    clips: the clips.
  """
  flips = backwards = 0
  reasons: collections.Counter[str] = collections.Counter()
  for i in range(len(clips)):
    flips += flipped(clips[i]) is not None
    found, reason = reversed_clip(clips[i])
    backwards += found is not None
    reasons.update([reason] if reason else [])
  return flips, backwards, reasons


def _texts(clip: Clip) -> list[str]:
  return [clip.caption, clip.motion, *clip.names, *clip.prompts]


def _with_texts(clip: Clip, texts: list[str], video: np.ndarray, ids: np.ndarray) -> Clip:
  names = 2 + len(clip.names)
  return dataclasses.replace(
    clip,
    video=np.ascontiguousarray(video),
    ids=np.ascontiguousarray(ids),
    caption=texts[0],
    motion=texts[1],
    names=tuple(texts[2:names]),
    prompts=tuple(texts[names:]),
  )
