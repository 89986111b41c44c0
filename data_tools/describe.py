"""Describe an image to animate: its objects, its motion prompts and its text embeddings.

    python -m data_tools.describe --image photo.png --prompt "A brown dog runs on a beach." \\
        --llm meta-llama/Llama-3.1-8B-Instruct --detector IDEA-Research/grounding-dino-base \\
        --sam facebook/sam2.1-hiera-large --run runs/stage1 --run runs/stage2 \\
        --out photo.safetensors

The output file is the input of `ttm_jax.generate --described photo.safetensors`, which needs no
PyTorch. The command also writes photo_found.png, which shows the objects. A given segmentation,
motion prompt or object prompt is kept; the models provide the rest. The runs or latents datasets
named by --run determine the text encoders and which texts are embedded.
"""

import argparse
from pathlib import Path

from ttm_jax import outputs, trajectory
from ttm_jax.data.context import read_encoding
from ttm_jax.errors import InputError, front_door, printable
from ttm_jax.inference import cli_args
from ttm_jax.inference.pretrained_texts import with_embeddings
from ttm_jax.pytorch.annotation.describe import Models, describe


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    'python -m data_tools.describe',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  cli_args.add_flags(parser)
  parser.add_argument(
    '--run',
    action='append',
    default=[],
    help='run or latents dataset whose text encoders to use; repeat for each stage',
  )
  parser.add_argument('--out', required=True, help='output file, .safetensors')
  args = parser.parse_args(argv)
  with front_door():
    out = Path(args.out)
    if out.suffix != '.safetensors':
      raise InputError(f'--out {out}: give a name that ends in .safetensors')
    if not (args.image and args.prompt):
      raise InputError('give --image, the picture, and --prompt, what the video is to show')
    cli_args.check_flags(args)
    texts, models = cli_args.parse_texts(args.text), Models.from_flags(args)
    shown = out.with_name(f'{out.stem}_found.png')
    runs = [part for run in args.run for part in outputs.parts_of_run(run)]
    outputs.check(
      '--out', [out, shown], reads={**cli_args.reads(args), '--run': runs}, needed=2**20
    )
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
    described = with_embeddings(described, encodings, models.weights, texts)
    described.save(out)
    described.save_overlay(shown)
    print(printable('\n'.join([*described.lines(), str(out), str(shown)])))


if __name__ == '__main__':
  main()
