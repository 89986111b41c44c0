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
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools import engine, job, parts, report
from data_tools.arguments import (
  add_clip_flags,
  check_clip_flags,
  is_count,
  parse_size,
  training_videos,
)
from data_tools.layouts import LAYOUTS, layout, list_videos
from data_tools.shard import Settings, Shard, Work, bucket_name
from data_tools.sources import stamps
from data_tools.sources.base import Video
from data_tools.sources.benchmark import NONE, SAV_128
from data_tools.sources.descriptions import Window
from data_tools.sources.sav import KINDS as SAV_KINDS
from data_tools.steps.aesthetic import AestheticSettings
from data_tools.steps.caption import CaptionSettings
from data_tools.steps.detect import DetectSettings
from data_tools.steps.flow import FlowSettings
from data_tools.steps.match import Match
from data_tools.steps.prompts import PromptSettings
from data_tools.steps.segment import SegmentSettings
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import InputError, front_door, nearest
from ttm_jax.outputs import Reads, check_apart, writing
from ttm_jax.pytorch.annotation.flags import add_device_flags, add_model_flags, templates_of
from ttm_jax.pytorch.annotation.model_source import ModelSource

# Options that name a model or a template. A change of such a file also invalidates shards.
_MODELS = (
  *('captioner', 'llm', 'motion_template', 'objects_template', 'detector', 'sam', 'flow'),
  *('clip_model', 'aesthetic_head'),
)


def main(argv: Sequence[str] | None = None) -> None:
  args, beam_options = _split(sys.argv[1:] if argv is None else list(argv))
  out = Path(args.out)
  check_apart('--out', [out, f'{args.out}.incomplete'], reads(args))
  windows = [parse_window(text, args.fps, args.stride) for text in args.clip]
  buckets = [bucket_name(window) for window in windows]
  if len(set(buckets)) < len(windows):
    raise InputError('--clip: two clips have the same size; remove one')
  kind = layout(args)
  measures, finders = steps(args, kind)
  if kind == 'sav':
    # Fail here if one is missing, before the work begins.
    import pycocotools.mask  # noqa: F401
    import scipy.ndimage  # noqa: F401
  videos, unread = list_videos(args, kind)
  what = options(args, kind)
  shards = stamped(divide(videos, args.validation, args.videos_per_shard), args, what)
  digests = [shard.digest for shard in shards]
  what |= {'videos': len(videos), 'digest': stamps.digest(digests)}
  with job.alone(out):
    if not job.begin(out, what, digests, buckets):
      print(f'{out} is finished already')
      return
    incomplete = job.work_folder(out)
    work = Work(str(incomplete), tuple(windows), measures, finders, args.batch)
    start = time.monotonic()
    missing = [s for s in shards if not parts.is_finished(parts.part_folder(incomplete, s.number))]
    with engine.progress(incomplete, shards):
      engine.run_all(work, missing, args.workers, beam_options)
    with writing(incomplete, 'free space, then run the same command again'):
      tally, made = parts.assemble(incomplete, len(shards), buckets, what)
      found = report.write(incomplete, tally, unread, time.monotonic() - start, what)
      if not tally.clips:
        raise InputError(report.why_none(tally, found, incomplete / 'report.html'))
      parts.write_shards(incomplete, what, made, tally)
    job.finish(out)
  print('\n'.join(report.lines(out, tally, found, unread)))


def reads(args: argparse.Namespace) -> Reads:
  """Return the files and folders that the command reads, by flag."""
  names = (
    'source',
    'captions',
    'exclude',
    'ids',
    'motion_template',
    'objects_template',
    'captioner',
  )
  models = ('llm', 'detector', 'sam', 'flow', 'clip_model', 'aesthetic_head')
  return {f'--{name}': getattr(args, name) for name in (*names, *models)}


def parse_window(text: str, fps: float, stride: int | None) -> Window:
  """Parse a clip size such as '16x256x320' (frames x height x width) into a Window.

  Args:
    text: the clip size, in frames and pixels.
    fps: frames per second of the clips.
    stride: frames from the start of one window to the next; None for the length of a clip.

  Raises:
    InputError: if the text does not have this form.
  """
  frames, _, size = text.lower().partition('x')
  if not is_count(frames) or not size:
    raise InputError(f'--clip {text}: write FRAMESxHEIGHTxWIDTH, as in 16x256x256')
  return Window(int(frames), stride or int(frames), fps, parse_size(size))


def steps(args: argparse.Namespace, kind: str) -> tuple[tuple[Settings, ...], tuple[Settings, ...]]:
  """Return the settings of the enabled steps.

  Returns:
    The steps that score every window (flow, aesthetic), and the steps that complete windows without
    masks or texts (caption, prompts, detect, match, segment).

  Raises:
    InputError: if only one of --clip_model and --aesthetic_head is given, or --sam is given for a
      source that has masks.
  """
  weights = ModelSource.from_flags(args).of
  measures: list[Settings] = []
  finders: list[Settings] = []
  if args.flow:
    measures.append(FlowSettings(weights(args.flow), args.min_motion, args.max_motion))
  if args.clip_model or args.aesthetic_head:
    if not (args.clip_model and args.aesthetic_head):
      raise InputError('the aesthetic score needs both --clip_model and --aesthetic_head')
    settings = AestheticSettings(weights(args.clip_model), args.aesthetic_head, args.min_aesthetic)
    measures.append(settings)
  if args.captioner:
    finders.append(CaptionSettings(weights(args.captioner)))
  if args.llm:
    finders.append(PromptSettings(weights(args.llm), args.max_objects, **templates_of(args)))
  if args.detector:
    finders.append(DetectSettings(weights(args.detector), args.threshold))
    if kind != 'captioned':
      finders.append(Match())
  if args.sam:
    if kind != 'captioned':
      raise InputError(f'--sam: a source of kind {kind} has masks already; remove this flag')
    finders.append(SegmentSettings(weights(args.sam), args.sam_backend))
  return tuple(measures), tuple(finders)


def divide(videos: Sequence[Video], validation: int, size: int) -> list[Shard]:
  """Divide the videos into shards of `size` videos, in order.

  The last `validation` videos are the validation split.

  Raises:
    InputError: if no training video remains, or `size` is below 1.
  """
  held_out = training_videos(len(videos), validation)
  if size < 1:
    raise InputError(f'--videos_per_shard {size} must be at least 1')
  split = [(v, 'train' if i < held_out else 'validation') for i, v in enumerate(videos)]
  return [
    Shard(number, tuple(split[start : start + size]))
    for number, start in enumerate(range(0, len(split), size))
  ]


def options(args: argparse.Namespace, kind: str) -> dict[str, Any]:
  """Return the options that determine the dataset, as JSON values."""
  apart = ('out', 'workers', 'device', 'batch', 'model_batch', 'offline', 'kind')
  # JSON has no infinity.
  found = {
    name: str(value) if value in (math.inf, -math.inf) else value
    for name, value in sorted(vars(args).items())
    if name not in apart
  }
  # Convert to the types that json.load returns, so that stored options compare equal.
  return json.loads(json.dumps({'kind': kind, **found}))


def stamped(shards: Sequence[Shard], args: argparse.Namespace, what: dict[str, Any]) -> list[Shard]:
  """Return the shards with digests of their options, model files and source files."""
  models = stamps.of_models(getattr(args, name) for name in _MODELS)
  return [
    dataclasses.replace(
      shard,
      digest=stamps.digest(
        [what, models, [[stamps.of_video(video), split] for video, split in shard.videos]]
      ),
    )
    for shard in shards
  ]


def _split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Parse and validate the command line; return our options and Beam's, which follow `--`."""
  at = argv.index('--') if '--' in argv else len(argv)
  args = parser().parse_args(argv[:at])
  check_clip_flags(args)
  if args.workers < 1:
    raise InputError(f'--workers {args.workers} must be at least 1')
  if args.ids and args.exclude not in (None, NONE):
    raise InputError('--exclude and --ids: give one of the two')
  args.exclude = args.exclude or (NONE if args.ids else SAV_128)
  unknown = [kind for kind in args.masklets.split(',') if kind not in SAV_KINDS]
  if unknown:
    raise InputError(
      f'--masklets {unknown[0]}{nearest(unknown[0], SAV_KINDS)}: write {" or ".join(SAV_KINDS)}'
    )
  return args, engine.beam_options(argv[at + 1 :])


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = argparse.ArgumentParser(
    'python -m data_tools.prepare',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
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
