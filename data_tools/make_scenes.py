"""Make a clips dataset of synthetic scenes: moving shapes with exact masks and captions.

  python -m data_tools.make_scenes --out datasets/scenes --train 4096 --validation 64

The command downloads nothing. The same options give the same clips.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.scenes.captions import MOTIONS
from ttm_jax.scenes.generator import SceneConfig


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  with front_door():
    from data_tools.commands import make_scenes

    make_scenes.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  usual = SceneConfig()
  made = command_parser('data_tools.make_scenes', __doc__)
  add = made.add_argument
  add('--out', required=True, help='folder of the dataset; must be empty or not exist')
  add(
    '--lookalike',
    action='store_true',
    help='scenes of look-alike objects that change their color, which only their prompts tell apart'
    ' (ttm_jax/scenes/lookalikes.py); 2 to --max_objects each; --motions and --shapes do not apply',
  )
  add(
    '--dragged',
    action='store_true',
    help='scenes whose objects are dragged to other places than their texts say, to measure whether'
    ' stage 2 follows an edited trajectory (ttm_jax/scenes/dragged.py)',
  )
  add('--train', type=int, default=4096, help='number of training clips; default 4096')
  add('--validation', type=int, default=64, help='number of validation clips; default 64')
  add('--size', default='48', help='side in pixels, or HEIGHTxWIDTH, such as 48x64; default 48')
  add('--frames', type=int, default=usual.frames, help=f'frames per clip; default {usual.frames}')
  add('--fps', type=float, default=usual.fps, help=f'frames per second; default {usual.fps:g}')
  add('--min_objects', type=int, default=usual.min_objects, help='1 to 4; default 1')
  add('--max_objects', type=int, default=usual.max_objects, help='1 to 4; default 3')
  add('--motions', default=','.join(MOTIONS), help=f'comma-separated; default {",".join(MOTIONS)}')
  add(
    '--shapes',
    default=','.join(usual.shapes),
    help=f'comma-separated; default {",".join(usual.shapes)}',
  )
  add('--seed', type=int, default=usual.seed, help='random seed; default 0')
  add(
    '--workers', type=int, default=0, help='worker processes; 0 renders in this process; default 0'
  )
  return made


if __name__ == '__main__':
  main()
