"""How the tools read what is written on the command line."""

import math

from ttm_jax.errors import InputError

_DIGITS = 9  # Of a count; with thousands of them int() raises.


def parse_size(text: str) -> tuple[int, int]:
  """'48' or '48x64' (height x width) to (H, W).

  Raises:
    InputError: it is neither.
  """
  sides = text.lower().split('x')
  if len(sides) > 2 or not all(map(is_count, sides)):
    raise InputError(f'"{text}" is not a size; write a side, or height x width as in 64x96')
  return int(sides[0]), int(sides[-1])


def is_count(text: str) -> bool:
  """Return whether a text is a whole number above 0, of at most nine digits."""
  return text.isdecimal() and len(text) <= _DIGITS and int(text) > 0


def check_rate(name: str, value: float | None) -> None:
  """Raise InputError unless a number of frames per second is above 0, or None."""
  if value is not None and not 0 < value < math.inf:
    raise InputError(f'{name} {value:g}: give frames per second, a number above 0')
