"""Build a benchmark like SA-V-128 from a copy of SA-V, by the recipe of the paper.

    python -m data_tools.sav128 --source SA-V --scores sav_scores.jsonl --out benchmarks/sav128 \\
        --captioner meta-llama/Llama-3.2-11B-Vision-Instruct \\
        --llm meta-llama/Llama-3.1-8B-Instruct --flow raft_large.safetensors \\
        --clip_model openai/clip-vit-large-patch14 --aesthetic_head aesthetic.safetensors

Each video gets a caption, the number of objects that the caption names, a category, an aesthetic
score and a motion score. They are appended to --scores (see `data_tools.scoring`); to resume, run
the same command again. Without --source, the command only chooses videos from existing scores.

The videos are chosen as `data_tools.selection` describes. OUT holds ids.txt, with one id per line,
and sav128.json, with the scores of every video of the pool and the reason for each choice. Then
prepare the clips, and exclude the videos from the training data:

    python -m data_tools.prepare --source SA-V --ids benchmarks/sav128/ids.txt --stride 100000 ...
    python -m data_tools.prepare --source SA-V --exclude benchmarks/sav128/ids.txt ...

The ids of the published benchmark can be given to `prepare` in the same way.
"""

import argparse
from collections.abc import Sequence

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.pytorch.annotation.flags import add_device_flags


def main(argv: Sequence[str] | None = None) -> None:
  args = parser().parse_args(argv)
  from data_tools.commands import sav128

  sav128.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.sav128', __doc__)
  add = made.add_argument
  add('--scores', required=True, help='JSON lines file of scores; extended if --source is given')
  add('--out', required=True, help='folder for the chosen ids; must be empty or not exist')
  add('--pool', type=int, default=500, help='number of videos to draw from; default 500')
  add('--each', type=int, default=64, help='videos with one, and with several, objects; default 64')
  add('--seed', type=int, default=0, help='seed of the draw; default 0')
  models = made.add_argument_group('scoring')
  add = models.add_argument
  add('--source', help='folder of SA-V; without it, --scores is only read')
  add('--captions', help='captions.json with captions and object prompts of the videos')
  add('--categories', help='JSON object of video ids and categories, instead of asking --llm')
  add('--captioner', help='vision language model: captions')
  add('--llm', help='language model: objects and categories')
  add('--flow', help="safetensors file of torchvision's raft_large: motion score")
  add('--clip_model', help='CLIP: image embeddings for the aesthetic score')
  add('--aesthetic_head', help='safetensors file of the head of the aesthetic score')
  add('--fps', type=float, default=6, help='frames per second that are scored; default 6')
  add('--size', default='256', help='size at which videos are scored; default 256')
  add('--batch', type=int, default=8, help='videos scored at once; default 8')
  add_device_flags(models)
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
