"""Define the record of a clips dataset: one video, its label maps, caption and prompts.

Latents, token masks and text embeddings of all presets are derived from these records.
"""

import dataclasses

import numpy as np

from ttm_jax.errors import InputError

VERSION = '1.0.0'  # Version of the clips record; readers refuse other major versions.
MAX_OBJECTS = 8  # The palette has eight colors.
# What trajectories show, see `data.context.Encoding`.
TRAJECTORIES = MASKS, FLOW = 'masks', 'flow'
# Maximum pixel bytes of a clip, about 5 s of 4K video. Larger records are not decoded.
MAX_PIXELS = 2**32


@dataclasses.dataclass(frozen=True)
class Clip:
  """A short video with its object trajectory.

  Attributes:
    key: unique name of the clip within its dataset.
    video: RGB, uint8 [T, H, W, 3].
    ids: label maps, uint8 [T, H, W]; 0 is the background, l = 1..8 is object l.
    fps: frames per second.
    caption: the caption of the video (c).
    motion: the motion-only prompt of the whole scene (c_motion), without colors or locations.
    names: a short noun phrase per object; object l is `names[l - 1]`. The name of an object absent
      from frame 0 may be empty.
    prompts: the prompt of each object (c_local), indexed like `names`.

  Raises:
    InputError: shapes or dtypes do not match, a text is not valid Unicode, or an object exceeds
      MAX_OBJECTS or lacks a name or prompt.
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
    for said in (self.key, self.caption, self.motion, *self.names, *self.prompts):
      if not is_text(said):
        raise InputError(f'clip {self.key!r}: {said!r} is not valid Unicode; write it anew')
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


def is_text(text: str) -> bool:
  """Return whether a string can be encoded as UTF-8, i.e. contains no surrogate characters."""
  return not any('\ud800' <= character <= '\udfff' for character in text)


def check_size(frames: int, height: int, width: int) -> None:
  """Raise InputError if a clip of this size is empty or exceeds MAX_PIXELS bytes.

  Args:
    frames: number of frames.
    height: height in pixels.
    width: width in pixels.
  """
  if min(frames, height, width) < 1:
    raise InputError(f'{frames} frames of {width} x {height} pixels hold nothing')
  if frames * height * width * 3 > MAX_PIXELS:
    raise InputError(
      f'{frames} frames of {width} x {height} pixels take more than {MAX_PIXELS} bytes; cut the'
      ' video into shorter clips'
    )
