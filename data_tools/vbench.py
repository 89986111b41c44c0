"""VBench-I2V: clips of its images and prompts, and generated videos under the names of its tool.

    python -m data_tools.vbench clips --info vbench2_i2v_full_info.json --images crop/1-1 \\
        --out datasets/vbench --clip 16x256x256 --fps 8 \\
        --llm meta-llama/Llama-3.1-8B-Instruct --detector IDEA-Research/grounding-dino-base \\
        --sam facebook/sam2.1-hiera-large
    python -m data_tools.vbench names --info vbench2_i2v_full_info.json --generated videos \\
        --out sampled_videos

`clips` writes one clip per prompt: the image, repeated for all frames. Its key is the number of the
entry in the list, such as 0007. Without models, or where they do not find all objects, the clip has
no objects; the motion prompt then is the caption.

`names` links the videos of a folder, KEY.mp4 or KEY__SEED.mp4, as PROMPT-INDEX.mp4 with indices 0
to 4 in the order of the seeds, as Vchitect/VBench expects them. It writes the seeds to OUT.json.
"""

import argparse
from collections.abc import Sequence

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.pytorch.annotation.flags import add_device_flags, add_model_flags


def main(argv: Sequence[str] | None = None) -> None:
  args = parser().parse_args(argv)
  from data_tools.commands import vbench

  vbench.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.vbench', __doc__)
  commands = made.add_subparsers(dest='command', required=True)
  clips = commands.add_parser('clips', help='write a clips dataset of images and prompts')
  names = commands.add_parser('names', help='name generated videos as VBench expects them')
  for each in (clips, names):
    add = each.add_argument
    add('--info', required=True, help='vbench2_i2v_full_info.json')
    add('--dimension', action='append', default=[], help='prompts to use; repeat; default all')
    add('--out', required=True, help='output folder; must be empty or not exist')
  add = names.add_argument
  add('--generated', required=True, help='folder of KEY.mp4 or KEY__SEED.mp4')
  add = clips.add_argument
  add('--images', required=True, help='folder of the images of one aspect ratio')
  add('--clip', required=True, help='FRAMESxHEIGHTxWIDTH')
  add('--fps', type=float, required=True, help='frames per second of the clips')
  add_model_flags(clips)
  add_device_flags(clips)
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
