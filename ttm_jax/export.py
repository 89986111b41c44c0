"""Export two trained stages to PyTorch: a folder that diffusers can run without JAX.

    python -m ttm_jax.export --stage1 RUN --stage2 RUN --out FOLDER

The export has the EMA weights of the newest checkpoints, of any preset and any training mesh. It
needs neither PyTorch nor an accelerator, and only memory for a few tensors at a time. README.md in
the folder explains its use. The adapters of LoRA runs are merged.

    python -m ttm_jax.export --adapters_only --stage2 RUN --out FOLDER

writes the adapters alone, for `load_lora_weights` of diffusers, and the parts trained in full.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.exporting.dtypes import DTYPES


def main() -> None:
  """Export the runs named by the command line."""
  args = parser().parse_args()
  from ttm_jax.commands import export

  export.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('ttm_jax.export', __doc__)
  add = made.add_argument
  add('--stage1', default='', help='run of the image-to-motion stage')
  add('--stage2', default='', help='run of the motion-to-video stage')
  add('--out', required=True, help='output folder; must be empty or not exist')
  add('--adapters_only', action='store_true', help='write the adapters of LoRA runs alone')
  add('--dtype', choices=sorted(DTYPES), default='bf16', help='dtype of the weights; default bf16')
  add(
    '--text',
    action='append',
    default=[],
    help='NAME=MODEL: hub id or folder of a text encoder; default: as named by the runs',
  )
  add(
    '--samples',
    action='append',
    default=[],
    help='image for the model card, e.g. samples.gif of ttm_jax.evaluate; default: of the runs',
  )
  add('--license', default='', help='license of the weights, for the model card')
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
