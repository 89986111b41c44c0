"""Label maps of videos whose objects are given as one box per frame."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.sources import decode
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import InputError
from ttm_jax.json_lines import is_number
from ttm_jax.media.video_reader import Probe

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class BoxMasks:
  """Filled boxes, smaller ones on top; implements `base.Masks`.

  Attributes:
    where: what the boxes belong to, for error messages.
    boxes: for each object id, one box (x0, y0, x1, y1) in pixels per frame; None where the object
      is not visible.
    path, fps, repeat: as in `Video`.
  """

  where: str
  boxes: tuple[tuple[int, tuple[Box | None, ...]], ...]
  path: str
  fps: float | None = None
  repeat: int = 0

  @property
  def paths(self) -> tuple[str, ...]:
    return ()

  @property
  def frames(self) -> int:
    """Number of frames that have boxes."""
    return len(self.boxes[0][1])

  def check(self, path: str, seen: Probe) -> None:
    if self.frames != seen.frames:
      raise InputError(
        f'{self.where}: has boxes for {self.frames} frames, but {path} has {seen.frames}; give one'
        ' per frame'
      )

  def notes(self) -> list[str]:
    return ['filled boxes']

  def window(self, numbers: Sequence[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    size = decode.probe(self.path, self.fps, self.repeat).size
    return np.stack([fit(self._drawn(number, size)) for number in numbers])

  def _drawn(self, number: int, size: tuple[int, int]) -> np.ndarray:
    ids = np.zeros(size, np.uint8)
    seen = [(obj, box) for obj, each in self.boxes if (box := each[number]) is not None]
    for obj, (x0, y0, x1, y1) in sorted(seen, key=lambda s: (-_area(s[1]), -s[0])):
      # A pixel belongs to a box that contains its center.
      rows, columns = (
        slice(max(0, math.ceil(low - 0.5)), max(0, math.ceil(high - 0.5)))
        for low, high in ((y0, y1), (x0, x1))
      )
      ids[rows, columns] = obj
    return ids


def parse_boxes(where: str, content: Any) -> tuple[tuple[int, tuple[Box | None, ...]], ...]:
  """Return `BoxMasks.boxes` from JSON: an object of one list per object id.

  Raises:
    InputError: if it has another form.
  """
  if not isinstance(content, Mapping) or not content:
    raise InputError(f'{where}: "boxes" must be a JSON object with one list per object id')
  parsed: dict[int, tuple[Box | None, ...]] = {}
  for key, each in content.items():
    if key not in map(str, range(1, MAX_OBJECTS + 1)):
      raise InputError(f'{where}: "boxes" has the object id "{key}"; use 1 to {MAX_OBJECTS}')
    if not isinstance(each, list) or not each:
      raise InputError(f'{where}: "boxes.{key}" must be a list with one box per frame')
    parsed[int(key)] = tuple(
      _box(f'{where}: "boxes.{key}", frame {number}', box) for number, box in enumerate(each)
    )
  counts = {len(each) for each in parsed.values()}
  if len(counts) > 1:
    raise InputError(
      f'{where}: "boxes" has objects with {min(counts)} and {max(counts)} frames; give all one'
      ' length, with null where an object is not visible'
    )
  return tuple(sorted(parsed.items()))


def _box(where: str, content: Any) -> Box | None:
  if content is None:
    return None
  fine = isinstance(content, list) and len(content) == 4
  if not fine or not all(is_number(v) and math.isfinite(v) for v in content):
    raise InputError(f'{where}: give null or four numbers x0, y0, x1, y1 in pixels')
  x0, y0, x1, y1 = map(float, content)
  if x0 >= x1 or y0 >= y1:
    raise InputError(f'{where}: the box {content} is empty; give x0 < x1 and y0 < y1')
  return x0, y0, x1, y1


def _area(box: Box) -> float:
  return (box[2] - box[0]) * (box[3] - box[1])
