"""How objects of synthetic scenes move: sizes and paths over time, and places apart from others."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

DIRECTIONS = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1)}  # x right, y down.
_PLACES_TRIED = 24


class Body(Protocol):
  """What placing needs to know of an object: center (x, y) [T, 2] and radius [T], in pixels."""

  @property
  def center(self) -> np.ndarray:
    """Center (x, y) in each frame, [T, 2], in pixels."""
    ...

  @property
  def radius(self) -> np.ndarray:
    """Radius in each frame, [T], in pixels."""
    ...


def body(
  size: tuple[int, int], frames: int, rng: np.random.Generator, motion: str, crowding: float
) -> tuple[np.ndarray, np.ndarray]:
  """Draw radius in pixels and angle in radians over time, float64 [T] each.

  Args:
    size: (H, W) of the frame in pixels.
    frames: number of frames T.
    rng: random generator.
    motion: a name in `scenes.captions.MOTIONS`.
    crowding: factor of the radius, below 1 if many objects need room.
  """
  s = _progress(frames)
  low, high = {'grow': (0.105, 0.14), 'shrink': (0.155, 0.2)}.get(motion, (0.115, 0.18))
  gain = {'grow': 0.8, 'shrink': -0.5}.get(motion, 0.0)
  radius = rng.uniform(low, high) * crowding * min(size) * (1 + gain * s)
  turn = rng.choice((-1, 1)) * rng.uniform(0.9, 1.2) * math.pi * (motion == 'spin')
  return radius, rng.uniform(-0.15, 0.15) + turn * s


def path_of(
  size: tuple[int, int],
  frames: int,
  rng: np.random.Generator,
  motion: str,
  travel: tuple[float, float] = (0.32, 0.38),
) -> np.ndarray:
  """Draw the object's position relative to its start, float64 [T, 2] in pixels.

  Args:
    size: (H, W) of the frame in pixels.
    frames: number of frames T.
    rng: random generator.
    motion: a name in `scenes.captions.MOTIONS`.
    travel: least and most way of a motion in a direction, relative to the side of the frame.
  """
  s = _progress(frames)
  height, width = size
  if motion in DIRECTIONS:
    way = rng.uniform(*travel) * np.array([width, height]) * DIRECTIONS[motion]
    return s[:, None] * way
  if motion == 'bounce':
    hops = -rng.uniform(0.2, 0.26) * height * np.abs(np.sin(2 * math.pi * s))
    return np.stack([0 * s, hops], axis=-1)
  if motion == 'circle':
    turn = rng.uniform(0, 2 * math.pi) + rng.choice((-1, 1)) * 2 * math.pi * s
    round_ = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    return rng.uniform(0.13, 0.17) * min(size) * (round_ - round_[0])
  return np.zeros((frames, 2))


def origins(
  size: tuple[int, int], rng: np.random.Generator, group: Sequence[Body], placed: Sequence[Body]
) -> tuple[np.ndarray, np.ndarray]:
  """Draw origins for a group of objects that keep it in the frame.

  Args:
    size: (H, W) of the frame in pixels.
    rng: random generator.
    group: objects whose centers are relative to the origin.
    placed: objects already placed.

  Returns:
    The origins, float64 [N, 2], and the clearance of each, float64 [N]: the smallest distance in
    frame 0 to an object already placed, relative to the sum of the two radii.
  """
  frame = np.array(size[::-1])
  low = np.max([(0.95 * t.radius[:, None] - t.center).max(0) for t in group], axis=0)
  high = np.min([(frame - 0.95 * t.radius[:, None] - t.center).min(0) for t in group], axis=0)
  middle = (low + high) / 2
  low, high = np.minimum(low, middle), np.maximum(high, middle)
  places = rng.uniform(low, high, size=(_PLACES_TRIED, 2))
  clearance = np.full(_PLACES_TRIED, np.inf)
  for thing in group:
    for other in placed:
      distance = np.linalg.norm(places + thing.center[0] - other.center[0], axis=-1)
      clearance = np.minimum(clearance, distance / (thing.radius[0] + other.radius[0]))
  return places, clearance


def choice(rng: np.random.Generator, options):
  """Return one of the options, drawn uniformly."""
  options = list(options)
  return options[rng.integers(len(options))]


def _progress(frames: int) -> np.ndarray:
  """Return the relative time of each frame, float64 [T], 0 to 1."""
  return np.arange(frames) / max(frames - 1, 1)
