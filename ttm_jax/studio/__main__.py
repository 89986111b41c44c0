"""Start the studio: see, propose, edit and render motion in the browser.

    python -m ttm_jax.studio --stage1 RUN --stage2 RUN
    python -m ttm_jax.studio FOLDER

The first form runs two run directories with JAX, the second one an exported folder with PyTorch.
Then open the address that is printed. With --llm, --detector and --sam, models find the objects of
a picture from its caption; with --sam alone, they are segmented by clicks. See docs/studio.md.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.pytorch.annotation.flags import add_device_flags, add_model_flags
from ttm_jax.studio.server_flags import add_flags


def main() -> None:
  """Start the studio that the command line asks for."""
  args = parser().parse_args()
  from ttm_jax.studio import command

  command.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('ttm_jax.studio', __doc__)
  add = made.add_argument
  add('folder', nargs='?', default='', help='exported folder, or repository id on the hub')
  add('--stage1', help='run of the image-to-motion stage')
  add('--stage2', help='run of the motion-to-video stage')
  add(
    '--text',
    action='append',
    default=[],
    help='NAME=MODEL: hub id or folder of a text encoder; default: as recorded',
  )
  models = made.add_argument_group('models that find objects, by folder or hub id; need PyTorch')
  add_model_flags(models)
  add_device_flags(models)
  add_flags(made)
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
