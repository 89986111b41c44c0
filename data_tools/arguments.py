"""Parsing and validation of command line values that several tools share."""

import argparse
import math

from data_tools.sources.descriptions import Window
from ttm_jax.errors import InputError

_DIGITS = 9  # Most digits of a count. int() raises ValueError for thousands of digits.


def parse_size(text: str) -> tuple[int, int]:
  """Parse '48' or '48x64' (height x width) into (H, W), in pixels.

  Raises:
    InputError: if the text has neither form.
  """
  sides = text.lower().split('x')
  if len(sides) > 2 or not all(map(is_count, sides)):
    raise InputError(f'"{text}" is not a size; write a side, or height x width as in 64x96')
  return int(sides[0]), int(sides[-1])


def is_count(text: str) -> bool:
  """Return whether a text is a positive integer of at most nine digits."""
  return text.isdecimal() and len(text) <= _DIGITS and int(text) > 0


def parse_window(text: str, fps: float, stride: int | None) -> Window:
  """Parse a clip size such as '16x256x320' (frames x height x width) into a Window.

  Args:
    text: the clip size, in frames and pixels.
    fps: frames per second of the clips.
    stride: frames from the start of one window to the next; None for the length of a clip.

  Raises:
    InputError: if the text does not have this form.
  """
  frames, _, size = text.lower().partition('x')
  if not is_count(frames) or not size:
    raise InputError(f'--clip {text}: write FRAMESxHEIGHTxWIDTH, as in 16x256x256')
  return Window(int(frames), stride or int(frames), fps, parse_size(size))


def add_clip_flags(parser: argparse.ArgumentParser) -> None:
  """Add the flags that `check_clip_flags` checks: how videos are cut into clips and split."""
  add = parser.add_argument
  add(
    '--fps',
    type=float,
    required=True,
    help='frames per second of the clips; faster videos are subsampled',
  )
  add('--source_fps', type=float, help='frames per second of image folders')
  add(
    '--stride',
    type=int,
    help='frames from the start of one clip to the next; default: the frames of a clip',
  )
  add('--validation', type=int, default=0, help='use the last N videos for validation; default 0')


def check_clip_flags(args: argparse.Namespace) -> None:
  """Raise InputError if a flag of `add_clip_flags` is out of range."""
  for name in ('fps', 'source_fps'):
    rate = getattr(args, name)
    if rate is not None and not 0 < rate < math.inf:
      raise InputError(f'--{name} {rate:g}: give frames per second, a number above 0')
  for name, least in (('stride', 1), ('validation', 0)):
    count = getattr(args, name)
    if count is not None and count < least:
      raise InputError(f'--{name} {count} must be at least {least}')


def training_videos(videos: int, validation: int) -> int:
  """Return how many of the videos are for training; raise InputError if none is."""
  if validation >= videos:
    raise InputError(
      f'--validation {validation}: no training video remains, since the source has {videos};'
      ' give a smaller number'
    )
  return videos - validation
