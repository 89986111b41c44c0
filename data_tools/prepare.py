"""Prepare a clips dataset from videos.

    python -m data_tools.prepare --source videos --out datasets/clips \\
        --clip 16x256x256 --fps 8 --llm meta-llama/Llama-3.1-8B-Instruct \\
        --detector IDEA-Research/grounding-dino-base --sam facebook/sam2.1-hiera-large

--kind is the layout of the source: `captioned` (videos with a CSV, JSONL or .txt files), `vos`
(videos or images with one label PNG per frame), `sav` (SA-V), or a benchmark (docs/benchmarks.md).
`auto` detects the layout of the first three. A step runs if its model is given. Captioning,
prompting, detection and segmentation skip the clips whose source has masks, object prompts, a
caption and a motion prompt. For SA-V, the videos of the benchmark SA-V-128 are excluded
(--exclude); --ids reads only the videos of a benchmark.

To resume after an interruption, run the same command again. Finished shards are kept in
OUT.incomplete, which is renamed to OUT at the end. If the source has changed since, only the shards
with changed files are processed again. The command runs in --workers local processes, or as an
Apache Beam pipeline with Beam's options after `--` (-- --runner=DataflowRunner --project=...).
"""

import argparse
import math
import sys
from collections.abc import Sequence

from data_tools.arguments import add_clip_flags
from data_tools.layout_names import LAYOUTS
from data_tools.sources.benchmark import SAV_128
from data_tools.sources.sav import KINDS as SAV_KINDS
from ttm_jax.arguments import command_parser
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import front_door
from ttm_jax.pytorch.annotation.flags import add_device_flags, add_model_flags


def main(argv: Sequence[str] | None = None) -> None:
  argv = sys.argv[1:] if argv is None else list(argv)
  at = argv.index('--') if '--' in argv else len(argv)  # Beam's options follow.
  args = parser().parse_args(argv[:at])
  from data_tools.commands import prepare

  prepare.run(args, argv[at + 1 :])


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.prepare', __doc__)
  add = made.add_argument
  add('--source', required=True, help='folder of videos')
  add('--out', required=True, help='folder of the dataset; must be empty or not exist')
  add('--kind', choices=LAYOUTS, default='auto', help='layout of the source; default auto')
  add('--captions', help='captions: CSV, TSV, JSONL or JSON; for vos and sav a captions.json')
  add(
    '--exclude',
    help='sav: ids to exclude: a text file, a dataset on the Hugging Face hub, or none; default'
    f' {SAV_128}, or none with --ids',
  )
  add('--ids', help='sav: text file with the ids to read, one per line; default all')
  add('--masklets', default=','.join(SAV_KINDS), help='sav: comma-separated; default manual,auto')
  add(
    '--clip',
    action='append',
    required=True,
    help='FRAMESxHEIGHTxWIDTH; repeat for several buckets: each video goes to the bucket with the'
    ' nearest aspect ratio',
  )
  add_clip_flags(made)
  add('--videos_per_shard', type=int, default=16, help='videos per shard; default 16')
  add('--workers', type=int, default=1, help='local processes; default 1')
  add('--batch', type=int, default=8, help='clips processed at once; default 8')
  models = made.add_argument_group('models, by folder or hub id; a step runs if its model is given')
  add = models.add_argument
  add('--captioner', help='vision language model: captions of videos that have none')
  add_model_flags(models)
  add(
    '--max_objects',
    type=int,
    default=MAX_OBJECTS,
    help=f'most objects per clip; default {MAX_OBJECTS}',
  )
  add('--flow', help="safetensors file of torchvision's raft_large: motion score")
  add('--min_motion', type=float, default=0.0, help='minimum pixels per frame; default 0')
  add('--max_motion', type=float, default=math.inf, help='maximum pixels per frame; default none')
  add('--clip_model', help='CLIP: image embeddings for the aesthetic score')
  add('--aesthetic_head', help='safetensors file of the head of the aesthetic score')
  add('--min_aesthetic', type=float, default=-math.inf, help='minimum score; default none')
  add_device_flags(models)
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
