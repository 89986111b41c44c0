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

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.inference import cli_args


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  with front_door():
    from data_tools.commands import describe

    describe.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.describe', __doc__)
  cli_args.add_flags(made)
  made.add_argument(
    '--run',
    action='append',
    default=[],
    help='run or latents dataset whose text encoders to use; repeat for each stage',
  )
  made.add_argument('--out', required=True, help='output file, .safetensors')
  return made


if __name__ == '__main__':
  main()
