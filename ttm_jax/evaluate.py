"""Evaluate a pair of stages on held-out clips; write a report, its metrics and an animation.

    python -m ttm_jax.evaluate --stage1 RUN --stage2 RUN --clips DATASET --out DIR

Runs that use pretrained text encoders (CLIP, T5, ...) need PyTorch.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from ttm_jax import outputs
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import read_encoding, read_mixed
from ttm_jax.errors import InputError, front_door, printable
from ttm_jax.inference.cli_args import check_seed, check_steps, parse_texts
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.inference.pretrained_texts import load_encoders
from ttm_jax.media.contact_sheet import save_gif
from ttm_jax.metrics.evaluation import Evaluation, evaluate
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.report.results import montage, tables, write_metrics, write_report
from ttm_jax.training.orbax_errors import hush

# Files written to --out.
FILES = ('report.html', 'metrics.json', 'samples.gif')


def main() -> None:
  """Evaluate the runs named by the command line.

  Raises:
    InputError: If an input is invalid, or an output cannot be written.
  """
  args = parser().parse_args()
  hush()
  # Runs stay strings: `Path` would collapse the slashes of a URL (gs://).
  stages, out, texts = (args.stage1, args.stage2), Path(args.out), parse_texts(args.text)
  check_seed(args.seed)
  check_steps(args.steps)
  if args.count is not None and args.count < 1:
    raise InputError(f'--count {args.count}: must be at least 1; leave it out for all clips')
  reads: outputs.Reads = {
    '--stage1': outputs.parts_of_run(args.stage1),
    '--stage2': outputs.parts_of_run(args.stage2),
    '--clips': outputs.files_of(args.clips),
    '--text': list(texts.values()),
  }
  outputs.check('--out', [out / name for name in FILES], reads=reads, needed=2**20)
  clips = Clips(args.clips, args.split)
  encodings = [read_encoding(stage) for stage in stages]
  encoders = load_encoders(encodings, ModelSource('', offline=args.offline), texts)
  size = clips[0].ids.shape
  # Runs on mixtures sample at the size of the clips, others at their own.
  known = all(size in [shape.size for shape in read_mixed(stage)] for stage in stages)
  first, second = (
    Stage(run, task, encoders, steps=args.steps, size=size if known else None)
    for run, task in zip(stages, (STAGE1, STAGE2), strict=True)
  )
  pipeline = Pipeline(first, second)
  count = min(args.count or len(clips), len(clips))  # At least 1: `Clips` rejects empty splits.
  evaluation = run(pipeline, [clips[i] for i in range(count)], args.seed)
  intro = f'{count} clips of {args.clips}, split {args.split}.'
  write_all(out, 'Through-The-Mask', intro, evaluation, pipeline, *stages, more={})


def run(pipeline: Pipeline, clips, seed: int) -> Evaluation:
  """Evaluate the pipeline on clips, with a progress bar on stderr."""
  with Progress(
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    console=Console(stderr=True),
  ) as bar:
    task = bar.add_task('generate', total=3 * len(clips))
    return evaluate(pipeline, clips, seed, progress=lambda n: bar.advance(task, n))


def write_all(
  out: Path,
  title: str,
  intro: str,
  evaluation: Evaluation,
  pipeline: Pipeline,
  stage1: str,
  stage2: str,
  more: dict,
) -> None:
  """Print the tables, and write report.html, metrics.json and samples.gif.

  Args:
    out: Folder to write to.
    title: Title of the report.
    intro: First paragraph of the report.
    evaluation: The results.
    pipeline: The evaluated stages.
    stage1: Run of stage 1, as named in the report.
    stage2: Run of stage 2, as named in the report.
    more: Further entries of metrics.json.

  Raises:
    InputError: If a file could not be written; the others are written.
  """
  encoding = pipeline.encoding
  runs = {'stage 1': stage1, 'stage 2': stage2}
  chosen = range(min(4, len(evaluation.clips)))
  show(evaluation)
  steps: list[Callable[[Path], object]] = [
    lambda path: write_report(path, title, intro, evaluation, encoding.fps, encoding.palette, runs),
    lambda path: write_metrics(path, evaluation, more),
    lambda path: save_gif(path, montage(evaluation, encoding.palette, chosen), encoding.fps),
  ]
  failed = []
  for name, step in zip(FILES, steps, strict=True):
    try:
      step(out / name)
    except OSError as error:
      failed.append(f'cannot write {out / name} ({error.strerror or error})')
    else:
      print(printable(out / name))
  if failed:
    raise InputError('; '.join(failed) + ': free space or name another --out; the rest is written')


def show(evaluation: Evaluation) -> None:
  """Print the tables of an evaluation."""
  for table in tables(evaluation):
    shown = RichTable(*table.headers, title=table.caption)
    for name, *values in table.rows:
      shown.add_row(name, *('-' if v is None else f'{v:.3f}' for v in values))
    Console().print(shown)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = argparse.ArgumentParser(
    'python -m ttm_jax.evaluate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument('--stage1', required=True, help='run of the image-to-motion stage')
  made.add_argument('--stage2', required=True, help='run of the motion-to-video stage')
  made.add_argument('--clips', required=True, help='clips dataset')
  made.add_argument('--split', default='validation', help='dataset split; default validation')
  made.add_argument('--count', type=int, help='number of clips; default all')
  made.add_argument('--seed', type=int, default=0, help='seed of the noise; default 0')
  made.add_argument('--steps', type=int, help='sampling steps; default: as configured')
  made.add_argument(
    '--text',
    action='append',
    default=[],
    help='NAME=MODEL: hub id or folder of a text encoder; default: as named by the dataset',
  )
  made.add_argument('--offline', action='store_true', help='download no models')
  made.add_argument('--out', required=True, help='output folder')
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
