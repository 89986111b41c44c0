"""Synthetic clips of moving objects with exact label maps; no download is needed.

One to four objects of distinct shapes and colors move over a static background, each with one of
eleven motions. Smaller objects are in front of larger ones. A scene is a function of its
configuration (including the seed) and its index, so that any process can generate any scene.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError, nearest
from ttm_jax.scenes import captions as scene_words
from ttm_jax.scenes import shapes as scene_shapes
from ttm_jax.scenes.captions import MOTIONS
from ttm_jax.scenes.movement import DIRECTIONS, body, choice, origins, path_of

MOST_OBJECTS = 4
VALIDATION_START = 1 << 32  # Index of the first validation scene; training scenes start at 0.

# Distance of two objects in frame 0, relative to the sum of their radii: the preferred minimum, and
# the minimum for crowded scenes.
_CLEARANCE = 0.95
_LEAST_CLEARANCE = 0.75


@dataclasses.dataclass(frozen=True)
class SceneConfig:
  """Configuration of synthetic scenes.

  Attributes:
    size: (H, W) in pixels, at least 16 each.
    frames: Number of frames T; 'bounce' and 'circle' need at least 6 to be recognizable.
    fps: Frames per second; metadata only, since speeds are defined per clip.
    min_objects: Minimum number of objects, 1 to `max_objects`.
    max_objects: Maximum number of objects, up to 4.
    motions: The motions that occur, of MOTIONS. 'follow' needs another object that moves in a
      direction; without one, another motion is drawn.
    shapes: The shapes that occur, of scenes.shapes.SHAPES; the shapes of one scene are distinct.
    seed: Random seed of all scenes, at least 0.

  Raises:
    InputError: If a value is invalid.
  """

  size: tuple[int, int] = (48, 48)
  frames: int = 8
  fps: float = 8.0
  min_objects: int = 1
  max_objects: int = 3
  motions: tuple[str, ...] = MOTIONS
  shapes: tuple[str, ...] = tuple(scene_shapes.SHAPES)
  seed: int = 0

  def __post_init__(self):
    for motion in self.motions:
      if motion not in MOTIONS:
        raise InputError(
          f'unknown motion "{motion}"{nearest(motion, MOTIONS)}; choose from {", ".join(MOTIONS)}'
        )
    for shape in self.shapes:
      if shape not in scene_shapes.SHAPES:
        raise InputError(
          f'unknown shape "{shape}"{nearest(shape, scene_shapes.SHAPES)};'
          f' choose from {", ".join(scene_shapes.SHAPES)}'
        )
    if not set(self.motions) - {'follow'}:
      raise InputError('scenes need motions, and more than "follow" alone; add e.g. "left"')
    check_common(self.size, self.fps, self.seed)
    if self.frames < 1:
      raise InputError(f'scenes must have at least 1 frame, got {self.frames}')
    if not 1 <= self.min_objects <= self.max_objects <= MOST_OBJECTS:
      raise InputError(
        f'a scene has 1 to {MOST_OBJECTS} objects, got {self.min_objects} to {self.max_objects}'
      )
    spinning = 'spin' in self.motions
    usable = set(self.shapes) - (set(scene_shapes.ROUND) if spinning else set())
    if len(usable) < self.max_objects:
      raise InputError(
        f'{self.max_objects} objects of different shapes need as many shapes'
        f'{" that are not round, to spin" if spinning else ""}, got {", ".join(self.shapes)}'
      )


def check_common(size: tuple[int, int], fps: float, seed: int) -> None:
  """Raise InputError if a value is out of range that every kind of scene has."""
  if min(size) < 16:
    raise InputError(f'scenes must be at least 16 pixels high and wide, got {size}')
  if not fps > 0:
    raise InputError(f'frames per second must be positive, got {fps}')
  if seed < 0:
    raise InputError(f'the seed must not be negative, got {seed}')


@dataclasses.dataclass(frozen=True)
class SceneObject(scene_words.SceneDescription):
  """One object of a scene. Its label in the label map is its index in the layout plus 1.

  Attributes:
    texture: A key of scenes.shapes.TEXTURES.
    center: float64 [T, 2], (x, y) in pixels from the upper left corner of the frame.
    radius: float64 [T], in pixels.
    angle: float64 [T], in radians, clockwise.
  """

  texture: str
  center: np.ndarray
  radius: np.ndarray
  angle: np.ndarray


@dataclasses.dataclass(frozen=True)
class SceneLayout:
  """The content of a scene.

  Attributes:
    objects: The objects; object l of the label map is objects[l - 1].
    background_color: A key of scenes.shapes.BACKGROUND_COLORS.
    background: A key of scenes.shapes.BACKGROUNDS.
  """

  objects: tuple[SceneObject, ...]
  background_color: str
  background: str


def layout(config: SceneConfig, index: int) -> SceneLayout:
  """Return the layout of scene `index` >= 0, which `scene` renders."""
  return _layout(config, np.random.default_rng([config.seed, index]))


def scene(config: SceneConfig, index: int) -> Clip:
  """Return scene `index` >= 0: video uint8 [T, H, W, 3], label map uint8 [T, H, W] and texts.

  The result depends on (config, index) only.
  """
  return filmed(config, index, lambda things: things)


def filmed(
  config: SceneConfig,
  index: int,
  move: Callable[[tuple[SceneObject, ...]], Sequence[SceneObject]],
) -> Clip:
  """Return scene `index` with the texts and the first frame of `scene`, and other paths.

  Args:
    config: see `scene`.
    index: see `scene`.
    move: returns the objects as they are drawn, given those of the layout; their texts stay.
  """
  rng = np.random.default_rng([config.seed, index])
  plan = _layout(config, rng)
  things = plan.objects
  moved = move(things)
  still = scene_shapes.background(rng, plan.background_color, plan.background, config.size)
  video = np.repeat(still[None], config.frames, axis=0)
  ids = np.zeros(video.shape[:3], np.uint8)
  for i in sorted(range(len(things)), key=lambda i: -things[i].radius.max()):
    color = np.array(scene_shapes.COLORS[things[i].color], np.float32)
    draw(video, ids, i + 1, moved[i], color)
  return Clip(
    key=f'scene-{config.seed}-{index}',
    video=np.rint(video).astype(np.uint8),
    ids=ids,
    fps=config.fps,
    caption=scene_words.caption(things, plan.background_color, plan.background),
    motion=scene_words.motion_prompt(things),
    names=tuple(scene_words.name_of(thing) for thing in things),
    prompts=tuple(scene_words.prompt_of(things, i) for i in range(len(things))),
  )


def draw(
  video: np.ndarray, ids: np.ndarray, label: int, thing: SceneObject, color: np.ndarray
) -> None:
  """Draw an object over a video and its label map, in place.

  Args:
    video: float32 [T, H, W, 3] in 0..255.
    ids: uint8 [T, H, W].
    label: the object's label.
    thing: the object.
    color: its color, float32 [3], or [T, 1, 1, 3] if it changes in time.
  """
  where, coverage, light = scene_shapes.coverage_and_light(
    thing.noun, thing.texture, ids.shape[1:], thing.center, thing.radius, thing.angle
  )
  under = video[:, *where]
  under += coverage[..., None] * (light[..., None] * color - under)
  ids[:, *where][coverage >= 0.5] = label


class Scenes(Sequence[Clip]):
  """The sequence of scenes `start` to `start + count - 1`, generated on access.

  Instances hold no pixels, so they take little memory and are cheap to pickle.

  Attributes:
    config: Configuration of the scenes.
    start: Index of the first scene.
    make: What makes a clip of the configuration and an index.
  """

  def __init__(
    self, config: Any, count: int, start: int = 0, make: Callable[[Any, int], Clip] = scene
  ):
    self.config, self.start, self.make, self._count = config, start, make, count

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index):
    if not 0 <= index < len(self):
      raise IndexError(f'there is no scene {index} among {len(self)}')
    return self.make(self.config, self.start + index)


def scene_splits(
  config: Any, train: int, validation: int, make: Callable[[Any, int], Clip] = scene
) -> dict[str, Scenes]:
  """Return the splits 'train' and 'validation', whose scene indices do not overlap.

  Args:
    config: Configuration of the scenes.
    make: What makes a clip of the configuration and an index, such as `scene`.
    train: Number of training scenes, 1 to 2^32.
    validation: Number of validation scenes; 0 leaves out the split.

  Raises:
    InputError: If a number is out of range.
  """
  if not 0 < train <= VALIDATION_START or validation < 0:
    raise InputError(
      f'training needs at least 1 scene, validation at least 0, got {train}, {validation}'
    )
  splits = {'train': Scenes(config, train, 0, make)}
  if validation:
    splits['validation'] = Scenes(config, validation, VALIDATION_START, make)
  return splits


def _layout(config: SceneConfig, rng: np.random.Generator) -> SceneLayout:
  crowding = 1.0
  while True:
    objects = _place(config, rng, crowding)
    if objects is not None:
      color = choice(rng, scene_shapes.BACKGROUND_COLORS)
      return SceneLayout(objects, color, choice(rng, scene_shapes.BACKGROUNDS))
    crowding *= 0.95


def _place(
  config: SceneConfig, rng: np.random.Generator, crowding: float
) -> tuple[SceneObject, ...] | None:
  """Draw objects with radii scaled by `crowding`; None if they are too close in frame 0."""
  count = int(rng.integers(config.min_objects, config.max_objects + 1))
  motions, leaders = _motions(config, rng, count)
  colors = rng.permutation(list(scene_shapes.COLORS))[:count]
  nouns = rng.permutation(list(config.shapes))
  objects: list[SceneObject] = []
  paths: list[np.ndarray] = []  # Position of each object relative to the origin of its group.
  for i, (motion, leader) in enumerate(zip(motions, leaders, strict=True)):
    used = {thing.noun for thing in objects}
    fit = (n for n in nouns if n not in used and (motion != 'spin' or n not in scene_shapes.ROUND))
    radius, angle = body(config.size, config.frames, rng, motion, crowding)
    if leader is None:
      path = path_of(config.size, config.frames, rng, motion)
    else:
      ahead = np.array(DIRECTIONS[motions[leader]])
      gap = rng.uniform(1.0, 1.25) * (radius[0] + objects[leader].radius[0])
      path = paths[leader] - gap * ahead
    paths.append(path)
    start = radius[0] / (min(config.size) * crowding)
    objects.append(
      SceneObject(
        noun=str(next(fit)),
        color=str(colors[i]),
        size='small' if start < 0.128 else 'large' if start > 0.165 else '',
        motion=motion,
        phrase=choice(rng, scene_words.PHRASES[motion]),
        leader=leader,
        texture=choice(rng, scene_shapes.TEXTURES),
        center=path,
        radius=radius,
        angle=angle,
      )
    )
  placed: dict[int, SceneObject] = {}
  for i, leader in enumerate(leaders):
    if leader is None:
      group = [i] + [j for j in range(count) if leaders[j] == i]
      bodies = [objects[j] for j in group]
      places, clearances = origins(config.size, rng, bodies, [*placed.values()])
      enough = clearances >= _CLEARANCE
      best = int(enough.argmax() if enough.any() else clearances.argmax())
      origin, clearance = places[best], clearances[best]
      if clearance < _LEAST_CLEARANCE:
        return None
      for j in group:
        placed[j] = dataclasses.replace(objects[j], center=paths[j] + origin)
  return tuple(placed[i] for i in range(count))


def _motions(
  config: SceneConfig, rng: np.random.Generator, count: int
) -> tuple[list[str], list[int | None]]:
  """Draw each object's motion, and the index of the object that it follows, or None.

  The followed object comes earlier and moves in a direction; its motion is changed if it does not.
  """
  directions = [motion for motion in config.motions if motion in DIRECTIONS]
  others = [motion for motion in config.motions if motion != 'follow']
  motions: list[str] = []
  leaders: list[int | None] = []
  for i in range(count):
    motion, leader = choice(rng, config.motions), None
    if motion == 'follow':
      free = [j for j in range(i) if leaders[j] is None and j not in leaders]
      if free and directions:
        leader = choice(rng, free)
        if motions[leader] not in directions:
          motions[leader] = choice(rng, directions)
      else:
        motion = choice(rng, others)
    motions.append(motion)
    leaders.append(leader)
  return motions, leaders
