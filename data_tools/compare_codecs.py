"""Compare the reconstruction quality of codecs on validation clips.

    python -m data_tools.compare_codecs --clips datasets/scenes --codec runs/codec \\
        --codec linear:2x8x8x16

For each codec, print the number of latent values per clip, the PSNR of the videos in dB, and the
mean mask IoU of the objects. For the IoU, trajectories are rendered as RGB videos, encoded and
decoded with the codec, and converted back to label maps. The last column is of the masks of each
clip over those of the next one, up to eight objects in random colors.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.trajectory import PALETTES


def main() -> None:
  args = parser().parse_args()
  from data_tools.commands import compare_codecs

  compare_codecs.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.compare_codecs', __doc__)
  made.add_argument('--clips', required=True, help='clips dataset')
  made.add_argument(
    '--codec',
    action='append',
    required=True,
    help='as for data_tools.encode; repeat for each codec',
  )
  made.add_argument('--count', type=int, default=64, help='number of validation clips; default 64')
  made.add_argument(
    '--palette',
    choices=sorted(PALETTES),
    default='spread8',
    help='colors in which label maps are rendered',
  )
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
