"""The clips that videos are scored against: their sizes at once, their pixels on demand."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ttm_jax.data.clips import Clips
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Header:
  """What a record says about its clip before the pixels are decoded.

  Attributes:
    number: index of the record.
    key: name of the clip.
    shape: frames, height and width.
    fps: frames per second.
  """

  number: int
  key: str
  shape: tuple[int, int, int]
  fps: float


class References(Sequence[Clip]):
  """Clips of a dataset in a chosen order, decoded one at a time.

  Attributes:
    headers: one per clip.
  """

  def __init__(self, clips: Clips, headers: Sequence[Header], frames: int | None = None):
    """Choose clips.

    Args:
      clips: split of a dataset.
      headers: the chosen clips, see `headers_of`.
      frames: cut the clips to this number of frames; None for all.
    """
    self._clips, self._frames = clips, frames
    self.headers = tuple(headers)

  @property
  def keys(self) -> tuple[str, ...]:
    """The names of the clips."""
    return tuple(header.key for header in self.headers)

  def __len__(self) -> int:
    return len(self.headers)

  def __getitem__(self, index):
    """Return the clip at `index`, 0 <= index < len.

    Raises:
      IndexError: `index` is out of range.
      InputError: the record is damaged.
    """
    return shortened(self._clips[self.headers[index].number], self._frames)


def headers_of(clips: Clips, count: int | None = None) -> list[Header]:
  """Return the headers of the first `count` clips of a split, or of all.

  Raises:
    InputError: a record is damaged, or two clips have one key.
  """
  found: dict[str, Header] = {}
  for number in range(min(count or len(clips), len(clips))):
    record = clips.record(number)
    try:
      key = record['key'].decode()
    except UnicodeDecodeError as error:
      raise InputError(f'record {number} of the clips has a damaged key; write it again') from error
    if key in found:
      raise InputError(f'two clips are called {key!r}: write the dataset with unique keys')
    frames, height, width = map(int, record['shape'])
    found[key] = Header(number, key, (frames, height, width), float(record['fps']))
  return list(found.values())


def shortened(clip: Clip, frames: int | None) -> Clip:
  """Return the first frames of a clip."""
  if frames is None or frames == len(clip.video):
    return clip
  return dataclasses.replace(clip, video=clip.video[:frames], ids=clip.ids[:frames])


def objects_of(clip: Clip) -> int:
  """Return the number of objects in the first frame of a clip."""
  return int(np.count_nonzero(np.unique(clip.ids[0])))
