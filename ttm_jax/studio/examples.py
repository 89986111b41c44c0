"""Example pictures: procedural scenes with objects and texts, at the size of the networks."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ttm_jax.scenes.generator import VALIDATION_START, SceneConfig, scene
from ttm_jax.studio.backends import Limits

COUNT = 6
# Motions that every model trained on scenes knows; see `ttm_jax.demo`.
_MOTIONS = ('left', 'right', 'up', 'down', 'grow', 'shrink', 'stay')
_SMALLEST = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """An example.

  Attributes:
    picture: uint8 [H, W, 3].
    mask: Its objects, label map uint8 [H, W].
    caption: What the video shows.
    motion: What moves and how.
    names: Names of the objects, by label.
    prompts: What each object does, by label.
  """

  picture: np.ndarray
  mask: np.ndarray
  caption: str
  motion: str
  names: Mapping[int, str]
  prompts: Mapping[int, str]


def example(limits: Limits, number: int) -> Example:
  """Return an example, number 0 to `COUNT` - 1."""
  most = min(3, limits.max_objects)
  config = SceneConfig(
    size=(max(limits.height, _SMALLEST), max(limits.width, _SMALLEST)),
    frames=2,
    fps=limits.fps,
    min_objects=min(2, most),
    max_objects=most,
    motions=_MOTIONS,
  )
  # None of these was a training scene.
  made = scene(config, VALIDATION_START + number)
  return Example(
    made.video[0],
    made.ids[0],
    made.caption,
    made.motion,
    dict(enumerate(made.names, 1)),
    dict(enumerate(made.prompts, 1)),
  )
