"""Command-line flags for the models, under the same names in all commands."""

import argparse

from ttm_jax.pytorch.annotation.grounding_dino import THRESHOLD
from ttm_jax.pytorch.annotation.sam2 import BACKENDS


def add_model_flags(parser: argparse._ActionsContainer) -> None:
  """Add the flags of the language model, Grounding DINO and SAM 2."""
  add = parser.add_argument
  add('--llm', help='language model: motion prompt, object names and prompts')
  for name in ('motion', 'objects'):
    add(
      f'--{name}_template',
      help=f'text file instead of ttm_jax/pytorch/annotation/templates/{name}.txt',
    )
  add('--detector', help='Grounding DINO: boxes of the named objects')
  add(
    '--threshold',
    type=float,
    default=THRESHOLD,
    help=f'minimum score of a box; default {THRESHOLD}',
  )
  add('--sam', help='SAM 2: masks of the objects')
  add('--sam_backend', default='auto', choices=['auto', *BACKENDS], help='default auto')


def add_device_flags(
  parser: argparse._ActionsContainer, batch: str = '--model_batch', default: int = 8
) -> None:
  """Add the flags that `ModelSource.from_flags` reads.

  Args:
    parser: parser of the command line.
    batch: name of the flag for the batch size.
    default: default batch size.
  """
  add = parser.add_argument
  add('--device', default='auto', help='PyTorch device; default a GPU if available')
  add('--dtype', default='auto', help='default bfloat16 on a GPU, float32 on a CPU')
  add(
    batch,
    dest='model_batch',
    type=int,
    default=default,
    help=f'batch size of the models; default {default}',
  )
  add('--offline', action='store_true', help='do not download models')


def templates_of(args: argparse.Namespace) -> dict[str, str]:
  """Return the given templates, as arguments of `language_model.Questions`."""
  names = 'motion_template', 'objects_template'
  return {name: value for name in names if (value := getattr(args, name))}
