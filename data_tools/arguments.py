"""Parsing and validation of command line values that several tools share."""

import math

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


def check_rate(name: str, value: float | None) -> None:
  """Raise InputError unless `value`, in frames per second, is None or positive and finite."""
  if value is not None and not 0 < value < math.inf:
    raise InputError(f'{name} {value:g}: give frames per second, a number above 0')
