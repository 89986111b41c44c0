"""What `python -m ttm_jax.studio` does."""

import argparse

from ttm_jax.errors import InputError
from ttm_jax.inference.cli_args import parse_texts
from ttm_jax.pytorch.annotation.describe import Models
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.studio.actions import Studio
from ttm_jax.studio.annotation_finder import AnnotationFinder
from ttm_jax.studio.backends import Backend
from ttm_jax.studio.server_flags import check_flags
from ttm_jax.studio.shell import serve


def run(args: argparse.Namespace) -> None:
  """Start the studio and serve it until it is interrupted.

  Args:
    args: flags of `ttm_jax.studio`.

  Raises:
    InputError: If a flag is invalid, or the networks cannot be loaded.
  """
  if bool(args.folder) == bool(args.stage2):
    raise InputError('give --stage1 RUN --stage2 RUN, or an exported FOLDER')
  check_flags(args)
  models = Models.from_flags(args)
  finder = AnnotationFinder(models) if models.sam else None
  serve(Studio(_backend(args), finder, args.time_limit, args.work), args)


def _backend(args: argparse.Namespace) -> Backend:
  texts = parse_texts(args.text)
  if args.folder:
    from ttm_jax.studio.exported_networks import ExportedNetworks

    return ExportedNetworks(args.folder, args.device, args.dtype, args.offline, texts)
  from ttm_jax.studio.jax_runs import JaxRuns

  return JaxRuns(args.stage1, args.stage2, ModelSource.from_flags(args), texts)
