"""Start the studio: see, propose, edit and render motion in the browser.

    python -m ttm_jax.studio --stage1 RUN --stage2 RUN
    python -m ttm_jax.studio FOLDER

The first form runs two run directories with JAX, the second one an exported folder with PyTorch.
Then open the address that is printed. With --llm, --detector and --sam, models find the objects of
a picture from its caption; with --sam alone, they are segmented by clicks. See docs/studio.md.
"""

import argparse

from ttm_jax.errors import InputError, front_door
from ttm_jax.inference.cli_args import parse_texts
from ttm_jax.pytorch.annotation.describe import Models
from ttm_jax.pytorch.annotation.flags import add_device_flags, add_model_flags
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.studio.actions import Studio
from ttm_jax.studio.annotation_finder import AnnotationFinder
from ttm_jax.studio.backends import Backend
from ttm_jax.studio.shell import add_flags, check_flags, serve


def main() -> None:
  """Start the studio that the command line asks for.

  Raises:
    InputError: If a flag is invalid, or the networks cannot be loaded.
  """
  args = parser().parse_args()
  if bool(args.folder) == bool(args.stage2):
    raise InputError('give --stage1 RUN --stage2 RUN, or an exported FOLDER')
  check_flags(args)
  models = Models.from_flags(args)
  finder = AnnotationFinder(models) if models.sam else None
  serve(Studio(_backend(args), finder, args.time_limit), args)


def _backend(args: argparse.Namespace) -> Backend:
  texts = parse_texts(args.text)
  if args.folder:
    from ttm_jax.studio.exported_networks import ExportedNetworks

    return ExportedNetworks(args.folder, args.device, args.dtype, args.offline, texts)
  from ttm_jax.studio.jax_runs import JaxRuns

  return JaxRuns(args.stage1, args.stage2, ModelSource.from_flags(args), texts)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = argparse.ArgumentParser(
    'python -m ttm_jax.studio',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
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
