"""Make a clips dataset with several variants of each training clip: cropped, mirrored, reversed.

  python -m data_tools.augment --clips datasets/clips --out datasets/clips-augmented --variants 16

The first variant of a clip is the clip itself. Masks change with the pixels, and texts with both:
left and right are exchanged in a mirrored clip, and motion words get their opposite in one that is
played backwards. A clip whose texts have a motion without an opposite ("walks"), a place ("the left
cup") or an order in time ("then") is not reversed. The command prints how many clips that are.
Other splits are copied. The same options give the same clips.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  with front_door():
    from data_tools.commands import augment

    augment.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.augment', __doc__)
  add = made.add_argument
  add('--clips', required=True, help='clips dataset')
  add('--out', required=True, help='folder of the dataset; must be empty or not exist')
  add('--variants', type=int, required=True, help='records per training clip, the clip included')
  add(
    '--crop',
    type=float,
    default=0.7,
    help='least side of random crops, relative to the frame; 1 for none; default 0.7',
  )
  add(
    '--flip',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='mirror half of the variants, with left and right exchanged in their texts',
  )
  add(
    '--reverse',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='play half of the variants backwards, with the opposite motion words',
  )
  add('--seed', type=int, default=0, help='random seed; default 0')
  add('--workers', type=int, default=0, help='worker processes; 0 for this process; default 0')
  return made


if __name__ == '__main__':
  main()
