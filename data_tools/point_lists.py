"""Write the point tracks of a benchmark as lists, in the pixels and frames of its clips.

    python -m data_tools.prepare --source MoveBench --kind movebench-single --out datasets/move \\
        --clip 81x256x448 --fps 16
    python -m data_tools.point_lists --source MoveBench --kind movebench-single \\
        --clip 81x256x448 --fps 16 --out datasets/move_points.json

Give the same --clip, --fps and --stride as for the clips. The file maps the key of each clip to its
points: `points[n][t]` is the position (x, y) of point n in frame t, in pixels of the clip, where
integers are pixel centers; `visible[n][t]` is true or false. Points that the crop cuts off lie
outside of the frame. Metrics of point control compare them with the tracks of generated videos.
"""

import argparse
from collections.abc import Sequence

from data_tools.arguments import add_clip_flags
from data_tools.layout_names import BENCHMARKS
from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door


def main(argv: Sequence[str] | None = None) -> None:
  args = parser().parse_args(argv)
  with front_door():
    from data_tools.commands import point_lists

    point_lists.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.point_lists', __doc__)
  add = made.add_argument
  add('--source', required=True, help='folder of the benchmark')
  add('--kind', required=True, choices=BENCHMARKS, help='layout of the benchmark')
  add('--captions', help='list or table of the benchmark')
  add('--clip', required=True, help='FRAMESxHEIGHTxWIDTH')
  add('--out', required=True, help='output file, .json')
  add_clip_flags(made)
  return made


if __name__ == '__main__':
  main()
