"""Choose the videos of a benchmark from scored candidates, as SA-V-128 was chosen (paper, app. 11).

1. Each candidate has a category, an aesthetic score and a motion score. The paper combines the two
   scores without saying how. Here a candidate gets the mean of its two percentile ranks, so that
   neither scale dominates.
2. Going round the categories, the best remaining candidate of each enters the pool, until the pool
   is full. A category without remaining candidates is skipped.
3. From the pool, equally many videos with one object and with several objects are drawn.

All steps are deterministic. Ties are broken by id. The draw orders ids by a hash of seed and id, so
that it depends neither on the library version nor on the order of the input.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from ttm_jax.errors import InputError

CATEGORIES = (
  *('Animal', 'Architecture', 'Digital Art', 'Food', 'Landscape', 'Lifestyle', 'Plant'),
  *('Vehicles', 'Visual Art', 'Other'),
)
SINGLE, MULTI = 'single', 'multi'


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A scored video.

  Attributes:
    id: unique name of the video.
    category: an element of CATEGORIES.
    aesthetic: aesthetic score; larger is better.
    motion: motion score; larger is better.
    objects: number of objects that the caption names.
  """

  id: str
  category: str
  aesthetic: float
  motion: float
  objects: int


@dataclasses.dataclass(frozen=True)
class Chosen:
  """A member of the pool.

  Attributes:
    candidate: the video.
    score: combined score, 0..1.
    place: place in the pool, from 1.
    rank: rank in its category by score, from 1; the round in which it entered the pool.
    group: SINGLE or MULTI if the video was drawn, else ''.
    turn: place in the draw of its group, from 1; 0 for videos that were not drawn.
  """

  candidate: Candidate
  score: float
  place: int
  rank: int
  group: str = ''
  turn: int = 0

  @property
  def reason(self) -> str:
    """Why the video is in the pool, and in the benchmark or not, in words."""
    joined = f'number {self.rank} of {self.candidate.category}, number {self.place} of the pool'
    if self.group:
      return f'{joined}, drawn {self.turn} of those with {_OBJECTS[self.group]}'
    return f'{joined}, not drawn'


_OBJECTS = {SINGLE: 'one object', MULTI: 'several objects'}


def combined(candidates: Sequence[Candidate]) -> np.ndarray:
  """Return the mean percentile rank of aesthetic and motion scores, float64 [N] in 0..1.

  The rank of a value counts the smaller values, and half of the other equal ones.
  """
  if len(candidates) < 2:
    return np.ones(len(candidates))
  ranks = np.zeros(len(candidates))
  for values in ([c.aesthetic for c in candidates], [c.motion for c in candidates]):
    ordered = np.sort(values)
    below, through = (np.searchsorted(ordered, values, side) for side in ('left', 'right'))
    ranks += (below + through - 1) / 2
  return ranks / (2 * (len(candidates) - 1))


def fill_pool(candidates: Sequence[Candidate], size: int) -> list[Chosen]:
  """Return the pool of `size` videos, going round the categories.

  Raises:
    InputError: if two candidates have one id, or there are fewer candidates than `size`.
  """
  counts = collections.Counter(c.id for c in candidates)
  if twice := next((name for name, count in counts.items() if count > 1), None):
    raise InputError(f'"{twice}" has two records; remove one')
  if len(candidates) < size:
    raise InputError(
      f'there are {len(candidates)} usable videos, fewer than the {size} of --pool; score more'
      ' videos, or give a smaller --pool'
    )
  scores = combined(candidates)
  order = sorted(range(len(candidates)), key=lambda i: (-scores[i], candidates[i].id))
  queues = {
    category: [i for i in order if candidates[i].category == category] for category in CATEGORIES
  }
  pool: list[Chosen] = []
  for rank in range(max(map(len, queues.values()), default=0)):
    for queue in queues.values():
      if rank < len(queue) and len(pool) < size:
        i = queue[rank]
        pool.append(Chosen(candidates[i], float(scores[i]), len(pool) + 1, rank + 1))
  return pool


def draw(pool: Sequence[Chosen], each: int, seed: int) -> list[Chosen]:
  """Draw `each` videos with one object and `each` with several objects.

  Returns:
    The pool in its order, with `group` and `turn` set for the drawn videos.

  Raises:
    InputError: if the pool has too few videos of a group.
  """
  drawn: dict[str, tuple[str, int]] = {}
  for group in (SINGLE, MULTI):
    names = [c.candidate.id for c in pool if _group(c.candidate) == group]
    if len(names) < each:
      raise InputError(
        f'the pool of {len(pool)} has {len(names)} videos with {_OBJECTS[group]}, fewer than the'
        f' {each} of --each; give a larger --pool or a smaller --each'
      )
    names.sort(key=lambda name: (hashlib.sha256(f'{seed}:{name}'.encode()).digest(), name))
    drawn |= {name: (group, turn) for turn, name in enumerate(names[:each], 1)}
  return [
    dataclasses.replace(c, group=drawn[c.candidate.id][0], turn=drawn[c.candidate.id][1])
    if c.candidate.id in drawn
    else c
    for c in pool
  ]


def _group(candidate: Candidate) -> str:
  return {0: '', 1: SINGLE}.get(candidate.objects, MULTI)
