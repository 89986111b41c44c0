"""Resolve position words in object names, such as "left dog" and "right dog", to detected boxes.

Detectors find dogs reliably, but not the left one of several. Therefore the position word is
removed, the noun is detected, and the word selects one of the boxes. Left, middle, right and first,
second, ... compare the x coordinates of box centers; top, bottom, back and front compare y. All
boxes above the score threshold are candidates, including objects that the prompt does not mention
because they do not move: "left dog" is the leftmost of all dogs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_ALONG = {'left': 0, 'middle': 0, 'center': 0, 'centre': 0, 'right': 0}
_ALONG |= {'first': 0, 'second': 0, 'third': 0, 'fourth': 0, 'last': 0}
_ALONG |= {'top': 1, 'bottom': 1, 'upper': 1, 'lower': 1, 'front': 1, 'back': 1}
_RANK = {'left': 0, 'first': 0, 'second': 1, 'third': 2, 'fourth': 3, 'right': -1, 'last': -1}
_RANK |= {'top': 0, 'upper': 0, 'back': 0, 'bottom': -1, 'lower': -1, 'front': -1}
_ARTICLES = {'a', 'an', 'the'}
_PREPOSITIONS = {'at', 'in', 'of', 'on', 'to'}
# Assigned after the extremes, from the remaining boxes.
_CENTRAL = ('middle', 'center', 'centre')


def split_name(name: str) -> tuple[str, str]:
  """Split an object name into position word and noun: ('left', 'brown dog').

  The position word is empty if there is none. A name of only position words ("the back") is the
  noun. Articles and case are ignored.
  """
  words = [w for w in re.split(r'[\s\-]+', name.lower().strip(' .')) if w]
  words = [w for w in words if w not in _ARTICLES] or words
  found = [w for w in words if w in _ALONG]
  noun = [w for w in words if w not in _ALONG]
  while found and noun and noun[-1] in _PREPOSITIONS:  # "dog on the right" leaves "dog on".
    noun.pop()
  return (found[0], ' '.join(noun)) if found and noun else ('', ' '.join(words))


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float = 0.7) -> np.ndarray:
  """Apply non-maximum suppression to boxes.

  Args:
    boxes: Float [n, 4], x0, y0, x1, y1.
    scores: Float [n].
    overlap: A box is removed if its IoU with a kept box of higher score is above this.

  Returns:
    Indices of the kept boxes, int [m], by decreasing score.
  """
  kept: list[int] = []
  for i in np.argsort(-scores, kind='stable'):
    if all(box_iou(boxes[i], boxes[j]) <= overlap for j in kept):
      kept.append(int(i))
  return np.array(kept, int)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
  """Return the intersection over union (IoU) of two boxes x0, y0, x1, y1; 0 if both are empty."""
  width = min(a[2], b[2]) - max(a[0], b[0])
  height = min(a[3], b[3]) - max(a[1], b[1])
  shared = max(width, 0) * max(height, 0)
  union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
  return float(shared / union) if union > 0 else 0.0


def nouns(names: Iterable[str]) -> list[str]:
  """Return the distinct nouns of object names (see `split_name`), as prompts of a detector."""
  return list(dict.fromkeys(split_name(name)[1] for name in names))


def assign(
  names: Mapping[int, str], found: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[int, np.ndarray]:
  """Assign detected boxes to objects, each box to at most one object.

  If a noun has fewer boxes than objects, objects with a position word have priority.

  Args:
    names: Object names by id.
    found: Boxes, float [n, 4], and scores, float [n], for each noun of `nouns`.

  Returns:
    Box, float [4], by object id; objects without a box are omitted.
  """
  assigned: dict[int, np.ndarray] = {}
  parts = {i: split_name(name) for i, name in names.items()}
  for noun in nouns(names.values()):
    boxes, scores = found[noun]
    kept = suppress(boxes, scores)
    boxes = boxes[kept]  # By decreasing score.
    objects = {i: word for i, (word, n) in parts.items() if n == noun}
    free = list(range(len(boxes)))
    for obj in _ordered(objects)[: len(boxes)]:
      chosen = _choose(objects[obj], boxes, free)
      free.remove(chosen)
      assigned[obj] = boxes[chosen]
  return {i: assigned[i] for i in names if i in assigned}


def _ordered(objects: Mapping[int, str]) -> Sequence[int]:
  """Return objects in order of assignment: extremes, central words, then those without a word."""

  def turn(obj: int) -> int:
    word = objects[obj]
    return 2 if not word else 1 if word in _CENTRAL else 0

  return sorted(objects, key=turn)


def _choose(word: str, boxes: np.ndarray, free: list[int]) -> int:
  """Return the index of the free box that a position word selects; without a word, the best."""
  if not word:
    return free[0]
  axis = _ALONG[word]
  centres = (boxes[:, axis] + boxes[:, axis + 2]) / 2
  if word in _CENTRAL:
    # The box nearest to the median; of two equally near boxes, the one with the higher score.
    distance = {i: abs(centres[i] - np.median(centres)) for i in free}
    return min(free, key=lambda i: (round(float(distance[i]), 3), i))
  inwards = sorted(range(len(boxes)), key=lambda i: centres[i])
  rank = _RANK[word]
  inwards = inwards[::-1] if rank < 0 else inwards[rank:] + inwards[:rank]
  return next(i for i in inwards if i in free)
