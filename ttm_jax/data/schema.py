"""The record of a clips dataset: one video, its label maps, and what is said of it.

Pixels and label maps are the source of truth; latents, token masks and text embeddings of every
preset are derived from them.
"""

import dataclasses

import numpy as np

from ttm_jax.errors import InputError

VERSION = '1.0.0'  # Of the clips record; a dataset of another major version is refused.
MAX_OBJECTS = 8  # The palette has eight colours.


@dataclasses.dataclass(frozen=True)
class Clip:
  """A short video with its object trajectory.

  Attributes:
    key: names the clip within its dataset.
    video: uint8 [T, H, W, 3].
    ids: uint8 [T, H, W], 0 is the background, l = 1..8 is object l.
    fps: frames per second.
    caption: what the video shows (c).
    motion: the motion-only prompt of the whole scene (c_motion); no colours or places.
    names: a short noun phrase for each object; object l is `names[l - 1]`. An id that no pixel
      of frame 0 bears may have an empty name.
    prompts: all that is said of each object (c_local), like names.
  """

  key: str
  video: np.ndarray
  ids: np.ndarray
  fps: float
  caption: str
  motion: str
  names: tuple[str, ...]
  prompts: tuple[str, ...]

  def __post_init__(self):
    if self.video.dtype != np.uint8 or self.video.ndim != 4 or self.video.shape[-1] != 3:
      raise InputError(
        f'clip {self.key}: video must be uint8 [T, H, W, 3],'
        f' got {self.video.dtype} {self.video.shape}'
      )
    if self.ids.dtype != np.uint8 or self.ids.shape != self.video.shape[:3]:
      raise InputError(
        f'clip {self.key}: label maps must be uint8 {self.video.shape[:3]} like the video,'
        f' got {self.ids.dtype} {self.ids.shape}'
      )
    if len(self.names) != len(self.prompts):
      raise InputError(
        f'clip {self.key}: {len(self.names)} object names but {len(self.prompts)} object prompts'
      )
    highest = int(self.ids.max(initial=0))
    if highest > MAX_OBJECTS:
      raise InputError(f'clip {self.key}: object id {highest} exceeds the maximum {MAX_OBJECTS}')
    if highest > len(self.names):
      raise InputError(f'clip {self.key}: object {highest} has no name and prompt')
