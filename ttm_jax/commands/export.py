"""What `python -m ttm_jax.export` does."""

import argparse
from pathlib import Path

from ttm_jax import outputs
from ttm_jax.errors import InputError
from ttm_jax.exporting.adapters import export_adapters
from ttm_jax.exporting.folder import export
from ttm_jax.training.orbax_errors import hush


def run(args: argparse.Namespace) -> None:
  """Export the runs named by the flags of `ttm_jax.export`.

  Raises:
    InputError: If an input is invalid, or the output folder cannot be used.
  """
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
