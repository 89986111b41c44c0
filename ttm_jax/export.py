"""Export two trained stages to PyTorch: a folder that diffusers can run without JAX.

    python -m ttm_jax.export --stage1 RUN --stage2 RUN --out FOLDER

The export has the EMA weights of the newest checkpoints, of any preset and any training mesh. It
needs neither PyTorch nor an accelerator, and only memory for a few tensors at a time. README.md in
the folder explains its use. The adapters of LoRA runs are merged.

    python -m ttm_jax.export --adapters_only --stage2 RUN --out FOLDER

writes the adapters alone, for `load_lora_weights` of diffusers, and the parts trained in full.
"""

import argparse
from pathlib import Path

from ttm_jax import outputs
from ttm_jax.errors import InputError, front_door
from ttm_jax.exporting.adapters import export_adapters
from ttm_jax.exporting.files import DTYPES
from ttm_jax.exporting.folder import export
from ttm_jax.training.orbax_errors import hush


def main() -> None:
  """Export the runs named by the command line.

  Raises:
    InputError: If an input is invalid, or the output folder cannot be used.
  """
  args = parser().parse_args()
  hush()
  models = {}
  for text in args.text:
    name, equals, model = text.partition('=')
    if not equals or not name or not model:
      raise InputError(f'--text {text}: write NAME=MODEL, as clip=openai/clip-vit-large-patch14')
    models[name] = model
  out = Path(args.out)
  samples = [Path(path) for path in args.samples]
  reads: outputs.Reads = {
    '--stage1': outputs.parts_of_run(args.stage1),
    '--stage2': outputs.parts_of_run(args.stage2),
    '--samples': args.samples,
    '--text': list(models.values()),
  }
  outputs.check_apart('--out', [out], reads)
  runs = {name: Path(run) for name in ('stage1', 'stage2') if (run := getattr(args, name))}
  if args.adapters_only:
    if not runs:
      raise InputError('give the runs of the adapters: --stage1 RUN, --stage2 RUN, or both')
    export_adapters(runs, out, args.dtype)
    print(f'adapters of {" and ".join(runs)} are in {out}')
    return
  for name in ('stage1', 'stage2'):
    if name not in runs:
      raise InputError(f'give the run of the other stage, too: --{name} RUN')
  export(runs['stage1'], runs['stage2'], out, args.dtype, models, samples, args.license)
  print(f'{out}/README.md says how to use it')


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = argparse.ArgumentParser(
    'python -m ttm_jax.export',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
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
