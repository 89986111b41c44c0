"""Scenes of look-alike objects, in which only an object's own prompt or own pixels tell its future.

In ordinary scenes the first image and the caption say nearly everything about a video whose
trajectory is known. These scenes ask what masked attention is for:

* All objects of a scene have the same shape, and in half of the scenes the same color.
* Each object turns into another color, blinks, or keeps its color. The caption names these changes
  in random order and does not say which object has which; the prompt of the object does.
* No text names the color that an object has at first; its own pixels in the first image do.
* Objects move far and towards each other, so that they cross and hide each other.
* Backgrounds are plain, so that small networks learn about objects.

The motion prompt counts the objects from left to right, since they have no other names.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError
from ttm_jax.scenes import captions as scene_words
from ttm_jax.scenes import shapes as scene_shapes
from ttm_jax.scenes.generator import SceneObject, check_common, draw
from ttm_jax.scenes.movement import DIRECTIONS, body, choice, origins, path_of

CHANGES = ('turn', 'blink', 'keep')
MOTIONS = (*DIRECTIONS, 'stay')
NUMBERS = ('', 'one', 'two', 'three', 'four')
ORDINALS = ('first', 'second', 'third', 'fourth')
BACKGROUND = 'plain'
DIM = 0.4  # Brightness of a blinking object when it is dark.
BLINK = 2  # Frames that it stays bright, then dark.
_TRAVEL = (0.45, 0.6)
_LEAST_CLEARANCE = 0.95


@dataclasses.dataclass(frozen=True)
class LookalikeConfig:
  """Configuration of scenes with look-alike objects.

  Attributes:
    size: (H, W) in pixels, at least 16 each.
    frames: number of frames T, at least 8, so that every change is visible.
    fps: frames per second; metadata only.
    min_objects: minimum number of objects, at least 2.
    max_objects: maximum number of objects, up to 4.
    seed: random seed of all scenes, at least 0.

  Raises:
    InputError: a value is invalid.
  """

  size: tuple[int, int] = (48, 48)
  frames: int = 8
  fps: float = 8.0
  min_objects: int = 2
  max_objects: int = 3
  seed: int = 0

  def __post_init__(self):
    check_common(self.size, self.fps, self.seed)
    if self.frames < 8:
      raise InputError(f'scenes of look-alike objects need at least 8 frames, got {self.frames}')
    if not 2 <= self.min_objects <= self.max_objects <= len(ORDINALS):
      raise InputError(
        f'a scene has 2 to {len(ORDINALS)} look-alike objects,'
        f' got {self.min_objects} to {self.max_objects}'
      )


@dataclasses.dataclass(frozen=True)
class Lookalike(SceneObject):
  """One object of a scene.

  Attributes:
    change: one of CHANGES.
    later: the color that it turns into, a key of scenes.shapes.COLORS; equal to `color` unless the
      change is 'turn'.
  """

  change: str
  later: str

  @property
  def said(self) -> str:
    """The change in words, such as 'turns blue'."""
    return {'turn': f'turns {self.later}', 'blink': 'blinks', 'keep': 'keeps its color'}[
      self.change
    ]

  @property
  def prompt(self) -> str:
    """The object prompt, such as 'a star that moves up and turns blue'."""
    article = 'an' if self.noun[0] in 'aeiou' else 'a'
    return f'{article} {self.noun} that {self.phrase} and {self.said}'

  @property
  def colors(self) -> np.ndarray:
    """The color in each frame, float32 [T, 1, 1, 3] in 0..255."""
    frames = len(self.radius)
    first, last = (
      np.array(scene_shapes.COLORS[name], np.float32) for name in (self.color, self.later)
    )
    s = np.arange(frames, dtype=np.float32) / (frames - 1)
    blend = np.clip((s - 0.3) / 0.3, 0, 1)[:, None]
    dark = (np.arange(frames) // BLINK % 2 == 1) & (self.change == 'blink')
    colors = (first + blend * (last - first)) * np.where(dark, DIM, 1)[:, None]
    return colors[:, None, None].astype(np.float32)


def lookalike_scene(config: LookalikeConfig, index: int) -> Clip:
  """Return scene `index` >= 0: video uint8 [T, H, W, 3], label map uint8 [T, H, W] and texts.

  The result depends on (config, index) only.
  """
  rng = np.random.default_rng([config.seed, index, 1])
  things = _things(config, rng)
  color = choice(rng, scene_shapes.BACKGROUND_COLORS)
  still = scene_shapes.background(rng, color, BACKGROUND, config.size)
  video = np.repeat(still[None], config.frames, axis=0)
  ids = np.zeros(video.shape[:3], np.uint8)
  for i in sorted(range(len(things)), key=lambda i: -things[i].radius.max()):
    draw(video, ids, i + 1, things[i], things[i].colors)
  said = [things[i].said for i in rng.permutation(len(things))]
  return Clip(
    key=f'lookalike-{config.seed}-{index}',
    video=np.rint(video).astype(np.uint8),
    ids=ids,
    fps=config.fps,
    caption=_caption(things[0].noun, said, f'{BACKGROUND} {color}'),
    motion=_motion(things),
    names=tuple(thing.noun for thing in things),
    prompts=tuple(thing.prompt for thing in things),
  )


def change_of(prompt: str) -> str | None:
  """Return the change that an object prompt names, one of CHANGES, or None."""
  verbs = {'turns': 'turn', 'blinks': 'blink', 'keeps': 'keep'}
  return next((verbs[word] for word in prompt.split() if word in verbs), None)


def vocabulary() -> set[str]:
  """Return the words, in lower case, that occur here beside those of ordinary scenes."""
  nouns = {f'{noun}{ending}' for noun in scene_shapes.SHAPES for ending in ('s', 'es')}
  texts = 'turns blinks keeps its color from left to right'
  return {*texts.split(), *NUMBERS[1:], *ORDINALS, *nouns}


def _things(config: LookalikeConfig, rng: np.random.Generator) -> list[Lookalike]:
  """Draw objects that are apart in frame 0 and, where they can, cross each other later."""
  crowding = 1.0
  while True:
    things = _place(config, rng, crowding)
    if things:
      return things
    crowding *= 0.95


def _place(
  config: LookalikeConfig, rng: np.random.Generator, crowding: float
) -> list[Lookalike] | None:
  """Draw objects with radii scaled by `crowding`; None if they are too close in frame 0."""
  count = int(rng.integers(config.min_objects, config.max_objects + 1))
  noun = choice(rng, scene_shapes.SHAPES)
  names = list(scene_shapes.COLORS)
  colors = [choice(rng, names)] * count if rng.random() < 0.5 else [*rng.permutation(names)[:count]]
  things: list[Lookalike] = []
  for color in colors:
    motion, change = choice(rng, MOTIONS), choice(rng, CHANGES)
    others = [name for name in names if name != color]
    radius, angle = body(config.size, config.frames, rng, motion, crowding)
    thing = Lookalike(
      noun=noun,
      color=str(color),
      size='',
      motion=motion,
      phrase=choice(rng, scene_words.PHRASES[motion]),
      leader=None,
      texture=choice(rng, scene_shapes.TEXTURES),
      center=path_of(config.size, config.frames, rng, motion, _TRAVEL),
      radius=radius,
      angle=angle,
      change=change,
      later=str(choice(rng, others)) if change == 'turn' else str(color),
    )
    places, clearance = origins(config.size, rng, [thing], things)
    free = places[clearance >= _LEAST_CLEARANCE]
    if not len(free):
      return None
    nearest = [_nearest(place + thing.center, things) for place in free]
    origin = free[int(np.argmin(nearest))]
    things.append(dataclasses.replace(thing, center=origin + thing.center))
  return things


def _nearest(path: np.ndarray, others: Sequence[Lookalike]) -> float:
  """Return the least distance of a path [T, 2] to those of others, over all frames; 0 if none."""
  return min((np.linalg.norm(path - o.center, axis=-1).min() for o in others), default=0.0)


def _caption(noun: str, said: list[str], background: str) -> str:
  ending = 'es' if noun.endswith(('s', 'x')) else 's'
  clauses = [f'one {words}' for words in said]
  start = f'{NUMBERS[len(said)].capitalize()} {noun}{ending} over a {background} background'
  return f'{start}: {", ".join(clauses[:-1])} and {clauses[-1]}.'


def _motion(things: Sequence[Lookalike]) -> str:
  order = sorted(range(len(things)), key=lambda i: things[i].center[0, 0])
  clauses = [
    f'the {ORDINALS[place]} {things[i].noun} {things[i].phrase}' for place, i in enumerate(order)
  ]
  return f'From left to right, {", ".join(clauses[:-1])} and {clauses[-1]}.'
