"""Run the whole method from scratch on synthetic data, in minutes on two CPU cores.

    python -m ttm_jax.demo [--preset dit] [--workdir runs/demo] [--quick]

The demo makes scenes of moving objects, fits a codec, and trains stage 1 and stage 2 from scratch.
It then generates videos for validation scenes, and writes report.html and metrics.json. It runs
and prints the same commands that you would use for your own data. Run it again to resume an
interrupted demo.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.preset_names import DEFAULT, NAMES


def main() -> None:
  """Run the demo as the command line says."""
  args = parser().parse_args()
  from ttm_jax.commands import demo

  demo.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('ttm_jax.demo', __doc__)
  made.add_argument('--preset', choices=NAMES, default=DEFAULT, help='backbone')
  made.add_argument(
    '--workdir',
    help='output folder; default runs/demo, with the name of another preset and -quick at its end',
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
