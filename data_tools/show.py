"""Print one record of a dataset, and write its video with the objects overlaid.

    python -m data_tools.show datasets/clips 3
    python -m data_tools.show datasets/clips-dit/latents-train.array_record-00000-of-00002 17
    python -m data_tools.show datasets/clips.incomplete/parts/00004/16x256x256.train.array_record 0

The first argument is a clips or latents dataset, one of its files, or a finished shard of a running
preparation. If it is a file, the index counts within the file. For latents, the output shows the
decoded video next to the decoded trajectory.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  with front_door():
    from data_tools.commands import show

    show.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.show', __doc__)
  made.add_argument('shard', help='folder of a dataset, or one of its files')
  made.add_argument('index', type=int, help='index of the record, from 0')
  made.add_argument('--split', help='split of the dataset; default its first')
  made.add_argument('--out', help='output video, .mp4; default a new file named after the record')
  return made


if __name__ == '__main__':
  main()
