"""The report of a pair of stages: generate, print the tables, write page, metrics and animation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError, printable
from ttm_jax.inference.pipeline import Pipeline
from ttm_jax.media.contact_sheet import save_gif
from ttm_jax.metrics.evaluation import Evaluation, evaluate
from ttm_jax.report.gallery import Within
from ttm_jax.report.progress import progress_bar
from ttm_jax.report.results import montage, tables, write_metrics, write_report

FILES = ('report.html', 'metrics.json', 'samples.gif')


def run(pipeline: Pipeline, clips: Sequence[Clip], seed: int, batch: int) -> Evaluation:
  """Evaluate the pipeline on clips, with a progress bar on stderr."""
  with progress_bar('generate', 3 * len(clips)) as progress:
    return evaluate(pipeline, clips, seed, batch, progress)


def write_all(
  out: Path,
  title: str,
  intro: str,
  evaluation: Evaluation,
  pipeline: Pipeline,
  stage1: str,
  stage2: str,
  more: Mapping[str, Any],
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
      shown.add_row(name, *('-' if value is None else _text(value) for value in values))
    Console().print(shown)


def _text(value: float | Within) -> str:
  if isinstance(value, Within):
    return f'{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]'
  return f'{value:.3f}'
