"""Animate an image: image, segmentation and prompts -> trajectory -> video.

    python -m ttm_jax.generate --image photo.png --segmentation mask.png \\
        --prompt "A brown dog runs to the left on a beach." --motion "The dog runs to the left." \\
        --object "1: a brown dog running to the left" --stage1 RUN --stage2 RUN --out out.mp4

Besides out.mp4 it writes out_trajectory/ (one palette PNG per frame), out_trajectory.mp4 (the
trajectory as an overlay of the video) and out_side_by_side.mp4. To edit the motion, change the PNGs
or make your own, and pass them with --trajectory FOLDER and another --out. Stage 1 is then skipped.

Models can find a missing --segmentation, --motion or --object (these need PyTorch):

    python -m ttm_jax.generate --image photo.png --prompt "A brown dog runs on a beach." \\
        --llm LLM --detector GROUNDING_DINO --sam SAM2 --stage1 RUN --stage2 RUN --out out.mp4

Their results are printed, and shown in out_found.png, before sampling starts. For a host without
PyTorch, run `python -m data_tools.describe` on another one and pass its file with --described.

One command can generate many videos:

    python -m ttm_jax.generate --requests requests.jsonl --stage1 RUN --stage2 RUN --out FOLDER

Each line of the file is a JSON object whose keys are flags; "objects" maps ids to prompts:

    {"image": "dog.png", "segmentation": "mask.png", "prompt": "...", "objects": {"1": "..."}}

Further keys are "motion", "described", "trajectory", "seed", and "out", the name of the video.
Paths are relative to the file. Flags give what a line leaves open. Videos that exist are kept.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.inference.command import add_flags
from ttm_jax.inference.sampling_flags import add_mesh_flag, add_sampling_flags
from ttm_jax.parallel.compilation_cache import HELP


def main() -> None:
  """Animate the image named by the command line."""
  args = parser().parse_args()
  from ttm_jax.commands import generate

  generate.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('ttm_jax.generate', __doc__)
  made.add_argument('--stage1', help='run of the image-to-motion stage')
  made.add_argument('--stage2', required=True, help='run of the motion-to-video stage')
  made.add_argument(
    '--size',
    help='WIDTHxHEIGHT of the video in pixels: one that the runs were trained on, or another that'
    ' their networks can place; default: as trained',
  )
  made.add_argument('--frames', type=int, help='frames of the video, likewise')
  add_flags(made)
  add_sampling_flags(made.add_argument)
  add_mesh_flag(made.add_argument)
  made.add_argument('--requests', help='JSONL file of many requests; --out is then a folder')
  made.add_argument(
    '--batch', type=int, default=8, help='videos of --requests generated at once; default 8'
  )
  made.add_argument('--compilation_cache', default='', help=HELP)
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
