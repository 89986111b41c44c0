"""Scenes whose objects are dragged to other places than their texts say.

They ask what a person asks who edits a trajectory and leaves the prompts as they are: does stage 2
follow the trajectory? Image and texts are those of the ordinary scene of the same number. Each
object glides to a random place along a straight line, gently at both ends, as an object that is
dragged in the studio does. The clip shows what is right, so that all metrics apply.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ttm_jax.data.schema import Clip
from ttm_jax.scenes.generator import SceneConfig, SceneObject, filmed

LEAST_WAY = 0.25  # Of a drag, relative to the shorter side of the frame.


def dragged_scene(config: SceneConfig, index: int) -> Clip:
  """Return scene `index` >= 0, dragged: video uint8 [T, H, W, 3], label map uint8 [T, H, W], texts.

  The result depends on (config, index) only. Size and angle of an object are those of frame 0.
  """
  rng = np.random.default_rng([config.seed, index, 2])

  def move(things: Sequence[SceneObject]) -> list[SceneObject]:
    return [_dragged(config, rng, thing) for thing in things]

  clip = filmed(config, index, move)
  return dataclasses.replace(clip, key=f'{clip.key}-dragged')


def _dragged(config: SceneConfig, rng: np.random.Generator, thing: SceneObject) -> SceneObject:
  """Return an object that glides from its first place to a random one inside the frame."""
  start, radius = thing.center[0], thing.radius[0]
  frame = np.array(config.size[::-1])
  least = LEAST_WAY * min(config.size)
  goal = start
  while np.linalg.norm(goal - start) < least:
    goal = rng.uniform(radius, frame - radius)
  s = np.arange(config.frames) / max(config.frames - 1, 1)
  share = s * s * (3 - 2 * s)
  return dataclasses.replace(
    thing,
    center=start + share[:, None] * (goal - start),
    radius=np.full(config.frames, radius),
    angle=np.full(config.frames, thing.angle[0]),
  )
