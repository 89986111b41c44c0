"""Make a clips dataset from videos with masks and captions.

  python -m data_tools.import_folder --source videos --captions videos/captions.json \\
    --out datasets/videos --frames 16 --fps 8 --size 64x96

Each key of the captions file names a folder under --source. The folder holds video.mp4 and a folder
of palette PNGs, one per frame, whose pixel values are object ids (0 is background). An entry of the
captions file has the caption (c), the motion prompt (c_motion) and one prompt per object id
(c_local):

  {"park/dog": {"c": "A dog runs after a red ball.",
                "c_motion": "The dog runs after the ball.",
                "c_local": {"1": "a dog that runs", "2": "a red ball that rolls"}}}

The report lists the outcome of every video, including those that are left out.
"""

import argparse

from data_tools.arguments import add_clip_flags
from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  with front_door():
    from data_tools.commands import import_folder

    import_folder.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.import_folder', __doc__)
  add = made.add_argument
  add('--source', required=True, help='folder of the videos')
  add('--captions', required=True, help='JSON file, see above')
  add('--out', required=True, help='folder of the dataset; must be empty or not exist')
  add('--frames', type=int, required=True, help='frames per clip')
  add('--size', required=True, help='side in pixels, or HEIGHTxWIDTH, such as 64x96')
  add_clip_flags(made)
  add(
    '--validation_windows',
    type=int,
    default=0,
    help='use the last N clips of each video for validation, and none that shares a frame with them'
    ' for training; default 0',
  )
  return made


if __name__ == '__main__':
  main()
