"""What `python -m data_tools.describe` does."""

import argparse
from pathlib import Path

from ttm_jax import outputs, trajectory
from ttm_jax.data.context import read_encoding
from ttm_jax.errors import InputError, printable
from ttm_jax.inference import cli_args
from ttm_jax.inference.pretrained_texts import with_embeddings
from ttm_jax.pytorch.annotation.describe import Models, describe


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.describe`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  out = Path(args.out)
  if out.suffix != '.safetensors':
    raise InputError(f'--out {out}: give a name that ends in .safetensors')
  if not (args.image and args.prompt):
    raise InputError('give --image, the picture, and --prompt, what the video is to show')
  cli_args.check_flags(args)
  texts, models = cli_args.parse_texts(args.text), Models.from_flags(args)
  shown = out.with_name(f'{out.stem}_found.png')
  runs = [part for run in args.run for part in outputs.parts_of_run(run)]
  outputs.check('--out', [out, shown], reads={**cli_args.reads(args), '--run': runs}, needed=2**20)
  notes: list[str] = []
  mask = trajectory.read_mask(args.segmentation, notes) if args.segmentation else None
  for note in notes:
    print(printable(note), flush=True)
  encodings = [read_encoding(run) for run in args.run]
  described = describe(
    args.image,
    args.prompt,
    models,
    motion=args.motion or '',
    segmentation=mask,
    prompts=cli_args.parse_objects(args.object),
    max_objects=min([trajectory.MAX_OBJECTS, *(e.max_objects for e in encodings)]),
  )
  (described,) = with_embeddings([described], encodings, models.weights, texts)
  described.save(out)
  described.save_overlay(shown)
  print(printable('\n'.join([*described.lines(), str(out), str(shown)])))
