"""What `python -m data_tools.prepare` does."""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools import engine, job, parts, report
from data_tools.arguments import (
  check_clip_flags,
  parse_window,
  training_videos,
)
from data_tools.layouts import layout, list_videos
from data_tools.shard import Settings, Shard, Work, bucket_name
from data_tools.sources import stamps
from data_tools.sources.base import Video
from data_tools.sources.benchmark import NONE, SAV_128
from data_tools.sources.sav import KINDS as SAV_KINDS
from data_tools.steps.aesthetic import AestheticSettings
from data_tools.steps.caption import CaptionSettings
from data_tools.steps.detect import DetectSettings
from data_tools.steps.flow import FlowSettings
from data_tools.steps.match import Match
from data_tools.steps.prompts import PromptSettings
from data_tools.steps.segment import SegmentSettings
from ttm_jax.errors import InputError, nearest
from ttm_jax.outputs import Reads, check_apart, writing
from ttm_jax.pytorch.annotation.flags import templates_of
from ttm_jax.pytorch.annotation.model_source import ModelSource

# Options that name a model or a template. A change of such a file also invalidates shards.
_MODELS = (
  *('captioner', 'llm', 'motion_template', 'objects_template', 'detector', 'sam', 'flow'),
  *('clip_model', 'aesthetic_head'),
)


def run(args: argparse.Namespace, beam: Sequence[str]) -> None:
  """Run the command with the flags of `data_tools.prepare`.

  Args:
    args: the flags.
    beam: options of Beam.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  check(args)
  beam_options = engine.beam_options(beam)
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


def check(args: argparse.Namespace) -> None:
  """Raise InputError if a flag is out of range; set the default of --exclude."""
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
