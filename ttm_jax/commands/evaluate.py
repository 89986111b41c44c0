"""What `python -m ttm_jax.evaluate` does."""

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from ttm_jax import outputs
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import read_encoding, read_mixed
from ttm_jax.data.schema import FLOW
from ttm_jax.errors import InputError, printable
from ttm_jax.guidance_inputs import RANGES
from ttm_jax.inference.cli_args import (
  check_number,
  check_seed,
  check_steps,
  parse_named,
  parse_texts,
)
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.inference.pretrained_texts import load_encoders
from ttm_jax.inference.sampling_flags import sampling_of
from ttm_jax.inference.sampling_mesh import mesh_of
from ttm_jax.metrics import agreement, evaluation, registry, scored_videos, systems
from ttm_jax.metrics.agreement import Agreed
from ttm_jax.metrics.defaults import METRICS
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.score_files import ScoredFolder
from ttm_jax.parallel.compilation_cache import keep_programs
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.report import pair_report, scored_folder, study
from ttm_jax.report.progress import progress_bar
from ttm_jax.report.score_table import ScoreTable
from ttm_jax.training.orbax_errors import hush

TI2V = 'image_to_video'


SYSTEMS = ('stage1', 'stage2', 'run', 'folder', 'generated')


def run(args: argparse.Namespace) -> None:
  """Score, make a study, or count its votes, as the flags of `ttm_jax.evaluate` say.

  Raises:
    InputError: If an input is invalid, or an output cannot be written.
  """
  hush()
  keep_programs(args.compilation_cache)
  chosen = [name for name in (*SYSTEMS, 'pairs', 'votes') if getattr(args, name) is not None]
  if chosen == ['votes']:
    study.count_votes(args.votes, args.study, args.out, args.draws)
    return
  if args.clips is None or args.out is None:
    raise InputError('give the clips (--clips DATASET) and an output folder (--out DIR)')
  check_seed(args.seed)
  check_steps(args.steps)
  check_number('--visual_scale', args.visual_scale)
  check_number('--text_scale', args.text_scale)
  if args.count is not None and args.count < 1:
    raise InputError(f'--count {args.count}: must be at least 1; leave it out for all clips')
  if chosen == ['pairs']:
    make_study(args)
  elif chosen in (['stage1', 'stage2'], ['run'], ['folder'], ['generated']):
    score(args, chosen)
  else:
    raise InputError(
      'say what to score: --stage1 RUN and --stage2 RUN, or one of --run RUN, --folder EXPORTED,'
      ' --generated VIDEOS, --pairs VIDEOS VIDEOS and --votes FILE'
    )


def score(args: argparse.Namespace, chosen: list[str]) -> None:
  """Score what the flags name, and write the scored folder.

  Args:
    args: The flags.
    chosen: Names of the flags that say what to score.

  Raises:
    InputError: If an input is invalid, or an output cannot be written.
  """
  out, texts = Path(args.out), parse_texts(args.text)
  seeds = checked_numbers(args)
  pair = chosen == ['stage1', 'stage2']
  files = [*(pair_report.FILES if pair else ()), *scored_folder.FILES]
  reads: outputs.Reads = {
    '--stage1': outputs.parts_of_run(args.stage1),
    '--stage2': outputs.parts_of_run(args.stage2),
    '--run': outputs.parts_of_run(args.run),
    '--folder': outputs.files_of(args.folder),
    '--generated': outputs.files_of(args.generated),
    '--against': outputs.files_of(args.against),
    '--clips': outputs.files_of(args.clips),
    '--text': list(texts.values()),
  }
  folders = [out / name for name in scored_folder.FOLDERS]
  outputs.check('--out', [out / name for name in files], folders, reads, needed=2**20)
  names = [name for name in args.metrics.split(',') if name] or list(METRICS)
  weights = parse_named('--weights', args.weights)
  networks = MetricOptions(args.device, args.batch, args.offline, weights)
  metrics = registry.make(names, networks)
  agreed = agreement.agree(
    Clips(args.clips, args.split),
    args.count,
    args.generated,
    args.against,
    scored_videos.parse_allow(args.allow),
  )
  if isinstance(agreed.other, ScoredFolder):
    agreed.other.check(metrics, agreed.shape)
  options = scored_folder.Options(args.draws, shown=args.show)
  source: systems.Source
  if args.generated is not None:
    assert agreed.ours is not None
    source = agreed.ours
  elif args.folder is not None:
    source = exported(args, agreed, seeds, texts)
  else:
    source, palette = of_runs(args, agreed, seeds, texts, out)
    options = dataclasses.replace(options, palette=palette)
  total = len(source.names) * len(source.seeds)
  total += len(agreed.other.seeds) if isinstance(agreed.other, systems.VideoFolder) else 0
  about = agreed.about(args.clips, args.split)
  with progress_bar('score', total * len(agreed.references) * len(metrics)) as progress:
    table = scored_folder.write_scored(out, source, metrics, about, agreed.other, options, progress)
  show(table)
  for name in scored_folder.FILES:
    print(printable(out / name))


def checked_numbers(args: argparse.Namespace) -> tuple[int, ...]:
  """Check the numeric flags, and return the noise seeds.

  Raises:
    InputError: If a number is out of range, or given for videos that exist already.
  """
  for name, least in (('seeds', 1), ('batch', 1), ('sampling_batch', 1), ('draws', 2), ('show', 0)):
    value = getattr(args, name)
    if value is not None and value < least:
      raise InputError(f'--{name} {value}: must be at least {least}')
  if args.generated is not None and args.seeds is not None:
    raise InputError('--seeds generates videos, but --generated names videos that exist: leave it')
  seeds = tuple(range(args.seed, args.seed + (args.seeds or 1)))
  check_seed(seeds[-1])
  return seeds


def of_runs(
  args: argparse.Namespace, agreed: Agreed, seeds: tuple[int, ...], texts: dict[str, str], out: Path
) -> tuple[systems.Source, str]:
  """Load --run, or --stage1 and --stage2, whose report is written.

  Returns:
    The videos, and the palette of the runs.

  Raises:
    InputError: If a run cannot be used, or a clip does not fit it.
  """
  runs = [args.run] if args.run is not None else [args.stage1, args.stage2]
  encodings = [read_encoding(run) for run in runs]
  encoders = load_encoders(encodings, ModelSource('', offline=args.offline), texts)
  # Runs on mixtures sample at the size of the clips, others at their own.
  known = all(agreed.shape in [shape.size for shape in read_mixed(run)] for run in runs)
  tasks = [TI2V] if args.run is not None else [STAGE1, STAGE2]
  given, mesh = sampling_of(args), mesh_of(args)
  size = agreed.shape if known else None
  stages = [
    Stage(run, task, encoders, given, args.steps, size, args.solver, mesh)
    for run, task in zip(runs, tasks, strict=True)
  ]
  encoding, clips = stages[-1].context.encoding, agreed.references
  size = encoding.frames, encoding.height, encoding.width
  if args.run is not None:
    one = stages[0]
    systems.check_clips(
      clips, f'run {args.run}', size, encoding.fps, lambda c: one.check(evaluation.request_of(c))
    )
    named = (str(args.run),)
    return systems.OneRun(one, clips, seeds, named, args.sampling_batch), encoding.palette
  pipeline = Pipeline(*stages)
  systems.check_clips(clips, f'run {args.stage2}', size, encoding.fps)
  if encoding.trajectory == FLOW:  # No masks to report on, or to generate from.
    both = systems.Chained(pipeline)
    named = (systems.CHAINED,)
    return systems.OneRun(both, clips, seeds, named, args.sampling_batch), encoding.palette
  found = pair_report.run(pipeline, clips, seeds[0], args.sampling_batch)
  intro = f'{len(clips)} clips of {args.clips}, split {args.split}.'
  pair_report.write_all(out, 'Through-The-Mask', intro, found, pipeline, runs[0], runs[1], {})
  source = systems.PairOfRuns(pipeline, found, clips, seeds, args.sampling_batch)
  return source, encoding.palette


def exported(
  args: argparse.Namespace, agreed: Agreed, seeds: tuple[int, ...], texts: dict[str, str]
) -> systems.Source:
  """Load --folder.

  Raises:
    InputError: If the folder cannot be used, or a clip does not fit it.
  """
  pipe = systems.load_exported(args.folder, args.device, args.offline, texts)
  video = pipe.config.video
  size = video['frames'], video['height'], video['width']
  name = str(args.folder)
  systems.check_clips(agreed.references, name, size, video['fps'], evaluation.request_of)
  scales = {scale: getattr(args, scale) for scale in RANGES if getattr(args, scale) is not None}
  return systems.ExportedFolder(
    pipe, agreed.references, seeds, (name,), args.steps, args.sampling_batch, scales
  )


def make_study(args: argparse.Namespace) -> None:
  """Write the page of a human study of the videos that --pairs names.

  Raises:
    InputError: If an input is invalid, or an output cannot be written.
  """
  out = Path(args.out)
  a, b = args.pairs
  reads: outputs.Reads = {
    '--pairs': [*outputs.files_of(a), *outputs.files_of(b)],
    '--clips': outputs.files_of(args.clips),
  }
  outputs.check('--out', [out / study.RECORD], [out / study.PAGE], reads, needed=2**20)
  allow = scored_videos.parse_allow(args.allow)
  agreed = agreement.agree(Clips(args.clips, args.split), args.count, a, b, allow, videos=True)
  assert agreed.ours is not None and isinstance(agreed.other, systems.VideoFolder)
  with progress_bar('study', len(agreed.references)) as progress:
    study.write_study(out, agreed.ours, agreed.other, args.seed, progress)
  for note in agreed.notes:
    print(printable(note))
  print(printable(f'{out / study.PAGE}: send this folder to raters, and keep {study.RECORD}'))


def show(table: ScoreTable) -> None:
  """Print the table of scores and its notes."""
  shown = RichTable(*(escape(printable(column)) for column in table.columns))
  for name, cells in table.rows:
    shown.add_row(name, *(Text(cell.text, 'bold' if cell.bold else '') for cell in cells))
  console = Console()
  console.print(shown)
  for note in table.notes:
    print(printable(note))
