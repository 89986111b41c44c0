"""What the studio asks of the networks, whatever runs them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from ttm_jax.guidance_inputs import Range
from ttm_jax.inference.request import Request, Sampling

Progress = Callable[[int, int], None]
"""Called as (steps done, steps in all) after each sampling step; it may raise `Cancelled`."""


class Cancelled(Exception):
  """Raised to stop sampling: the user cancelled it, or its time is over."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a pair of networks can generate.

  Attributes:
    frames: Number of frames of a clip, T.
    height: Height in pixels.
    width: Width in pixels.
    fps: Frames per second.
    max_objects: Largest number of objects, 1 to 8.
    motion_steps: Usual number of sampling steps of stage 1; 0 if there is no stage 1.
    video_steps: Usual number of sampling steps of stage 2.
    fixed_steps: Whether stage 2 samples in no other number of steps.
    motion_scales: Ranges of the guidance scales that stage 1 takes; empty if they are fixed.
    video_scales: The same of stage 2.
  """

  frames: int
  height: int
  width: int
  fps: float
  max_objects: int
  motion_steps: int
  video_steps: int
  fixed_steps: bool = False
  motion_scales: Mapping[str, Range] = dataclasses.field(default_factory=dict)
  video_scales: Mapping[str, Range] = dataclasses.field(default_factory=dict)


class Backend(Protocol):
  """Both stages, loaded for sampling.

  Attributes:
    name: What runs, as the page shows it.
    limits: What it can generate.
    command: Program and flags that name the networks, for the command line of a render.
  """

  name: str
  limits: Limits
  command: Sequence[str]

  def propose(self, request: Request, sampling: Sampling, progress: Progress) -> np.ndarray:
    """Generate a trajectory with stage 1.

    Args:
      request: Image, mask and prompts, of the size of the networks.
      sampling: How stage 1 samples.
      progress: Is called after each step.

    Returns:
      Label maps, uint8 [T, H, W].

    Raises:
      InputError: If there is no stage 1, or the request does not fit the networks.
      Cancelled: If `progress` raised it.
    """
    ...

  def render(
    self, request: Request, ids: np.ndarray, sampling: Sampling, progress: Progress
  ) -> np.ndarray:
    """Generate a video with stage 2.

    Args:
      request: As in `propose`.
      ids: Trajectory, uint8 [T, H, W].
      sampling: How stage 2 samples.
      progress: As in `propose`.

    Returns:
      uint8 [T, H, W, 3].

    Raises:
      InputError: If the request or the trajectory does not fit the networks.
      Cancelled: If `progress` raised it.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Found:
  """Objects that models found in an image.

  Attributes:
    mask: Label map, uint8 [H, W].
    names: Name of each object, by label.
    prompts: What each object does, by label.
    motion: What moves and how; empty if no model wrote it.
  """

  mask: np.ndarray
  names: Mapping[int, str]
  prompts: Mapping[int, str]
  motion: str = ''


class Finder(Protocol):
  """Models that find the objects of an image.

  Attributes:
    by_text: Whether `named` works.
    by_click: Whether `clicked` works.
  """

  by_text: bool
  by_click: bool

  def named(self, picture: np.ndarray, caption: str, motion: str, max_objects: int) -> Found:
    """Find the objects that move.

    Args:
      picture: uint8 [H, W, 3].
      caption: What the video shows.
      motion: What moves and how; may be empty.
      max_objects: Largest number of objects.

    Raises:
      InputError: If nothing is found.
    """
    ...

  def clicked(
    self, picture: np.ndarray, points: np.ndarray, inside: np.ndarray, box: np.ndarray | None
  ) -> np.ndarray:
    """Segment one object, bool [H, W].

    Args:
      picture: uint8 [H, W, 3].
      points: Clicked points (x, y), float [n, 2].
      inside: Whether each point is on the object, bool [n].
      box: Box around it (x0, y0, x1, y1), float [4], or None.
    """
    ...
