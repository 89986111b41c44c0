"""The sizes at which a run samples: those it was trained on, and others that its network can place.

Tokens are placed by learned or rotary positions, and latents are made by the codec: a size is valid
if the codec divides it into latents, and the network divides these into tokens that it can place.
"""

import math
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from ttm_jax.data.context import Context, Shape
from ttm_jax.data.schema import check_size
from ttm_jax.errors import InputError
from ttm_jax.presets import model_config, preset

Size = tuple[int, int, int]  # Frames, height and width.


def parse_size(text: str) -> tuple[int, int]:
  """Parse the value of --size, '832x480' (width x height), into (height, width).

  Raises:
    InputError: If the text has another form.
  """
  parts = text.lower().split('x')
  if len(parts) != 2 or not all(p.isdecimal() and len(p) < 6 and int(p) for p in parts):
    raise InputError(f'--size {text}: write WIDTHxHEIGHT in pixels, such as 832x480')
  width, height = map(int, parts)
  return height, width


def choose(context: Context, frames: int | None, sides: tuple[int, int] | None) -> Size:
  """Return the size that flags ask for; what they leave open is as in training.

  Args:
    context: Context of the run. Its own size, or else the first shape of its mixture that has what
      is asked for, gives the rest.
    frames: Number of frames, or None.
    sides: Height and width, or None.

  Raises:
    InputError: If there is to be no frame.
  """
  if frames is not None and frames < 1:
    raise InputError(f'--frames {frames}: must be at least 1')
  own = Shape.of(context.encoding)
  for shape in (own, *context.shapes):
    if frames in (None, shape.frames) and sides in (None, (shape.height, shape.width)):
      return shape.size
  height, width = sides or (own.height, own.width)
  return frames or own.frames, height, width


def context_at(run: object, config: ConfigDict, context: Context, size: Size) -> Context:
  """Return the context of a run for sampling at a size.

  Args:
    run: The run, for error messages.
    config: Its configuration.
    context: Its context.
    size: Frames, height and width.

  Raises:
    InputError: If the codec or the network cannot place the size; the message names the nearest one
      that they can.
  """
  for shape in context.shapes:
    if shape.size == size:
      return context.at(shape)
  try:
    return context.at(_placed(config, context, size))
  except InputError as error:
    near = _nearest(lambda other: _is_valid(config, context, other), size, context.shapes)
    raise InputError(
      f'run {run} cannot sample {_said(size)} ({error}): the nearest is --frames {near[0]} --size'
      f' {near[2]}x{near[1]}; it was trained on {trained(context)}'
    ) from error


def trained(context: Context) -> str:
  """Return the sizes that a run was trained on, in words."""
  return ', '.join(_said(shape.size) for shape in context.shapes)


def _said(size: Size) -> str:
  frames, height, width = size
  return f'{frames} frame{"s" * (frames > 1)} of {width} x {height}'


def _placed(config: ConfigDict, context: Context, size: Size) -> Shape:
  """Return the shape of clips of a size.

  Raises:
    InputError: If the codec or the network cannot place it.
  """
  frames, height, width = size
  check_size(*size)
  down, right = context.codec.stride
  if height % down or width % right:
    raise InputError(f'the codec takes multiples of {right} x {down} pixels')
  latents = int(context.codec.frame_groups(frames)[-1]) + 1, height // down, width // right
  chosen, model = preset(config.preset), model_config(config)
  chosen.check_latents(model, latents)
  return Shape(*size, chosen.grids(model, *latents[1:]))


def _is_valid(config: ConfigDict, context: Context, size: Size) -> bool:
  try:
    _placed(config, context, size)
  except InputError:
    return False
  return True


def _nearest(valid: Callable[[Size], bool], size: Size, shapes: Sequence[Shape]) -> Size:
  """Return a valid size near an invalid one.

  Start from the trained size that is nearest by ratio. Take frames, height and width in turn to the
  nearest value that is valid beside the others; of two, the smaller.
  """

  def distance(shape: Shape) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(shape.size, size, strict=True))

  found = list(min(shapes, key=distance).size)
  for axis, wanted in enumerate(size):
    own = found[axis]
    # Far beyond training, nothing is near.
    goal = min(wanted, 8 * own)
    for step in range(abs(goal - own) + 1):
      for value in (goal - step, goal + step):
        found[axis] = value
        if value > 0 and valid((found[0], found[1], found[2])):
          break
      else:
        continue
      break
  return found[0], found[1], found[2]
