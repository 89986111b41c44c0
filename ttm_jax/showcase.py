"""Train a pair of stages to look at: all motions, up to four objects, 16 frames.

    python -m ttm_jax.showcase [--workdir runs/showcase] [--size auto] [--quick]

The steps are those of the demo: scenes, a codec, both stages from scratch, videos of validation
scenes, report.html and metrics.json. On a CPU the scenes have 64 x 64 pixels, and all takes a day
of two cores. On a GPU they have 128 x 128, and the networks 100 million parameters. Stop it at any
time, with Ctrl-C or by turning off the machine: the same command continues.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door

SIZES = ('auto', '64', '128')


def main() -> None:
  """Run the showcase as the command line says."""
  args = parser().parse_args()
  from ttm_jax.commands import showcase

  showcase.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('ttm_jax.showcase', __doc__)
  made.add_argument(
    '--size',
    choices=SIZES,
    default='auto',
    help='side of the scenes in pixels; auto is 64 on a CPU and 128 on an accelerator',
  )
  made.add_argument(
    '--workdir', help='output folder; default runs/showcase-SIZE, with -quick at its end'
  )
  made.add_argument(
    '--quick',
    action='store_true',
    help='few scenes and steps, to check an installation; the videos are noise',
  )
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
