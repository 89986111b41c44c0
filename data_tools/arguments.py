"""How the tools read what is written on the command line."""

from ttm_jax.errors import InputError


def parse_size(text: str) -> tuple[int, int]:
  """'48' or '48x64' (height x width) to (H, W).

  Raises:
    InputError: it is neither.
  """
  sides = text.lower().split('x')
  if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
    raise InputError(f'"{text}" is not a size; write a side, or height x width as in 64x96')
  return int(sides[0]), int(sides[-1])
