"""Write the tables of an ablation as Markdown, JSON and a page with the videos side by side."""

import json
import math
from typing import Any

from ttm_jax.atomic import write_text
from ttm_jax.errors import printable
from ttm_jax.metrics.ablation import Ablation, Results
from ttm_jax.metrics.base import Metric
from ttm_jax.metrics.intervals import Interval, bootstrap, bootstrap_difference, table_cell
from ttm_jax.report.gallery import Panel, Row, Table, write_gallery


def write(plan: Ablation, results: Results) -> None:
  """Write ablation.md, ablation.json and report.html to the work directory, and print the tables.

  Raises:
    OSError: a file cannot be written.
  """
  sources = list(dict.fromkeys(source for _, source, _ in results.scores))
  cells = {
    (source, row, metric.name): _cell(plan, results, row, source, metric)
    for source in sources
    for row in plan.rows
    for metric in plan.metrics
  }
  text = _markdown(plan, results, sources, cells)
  write_text(plan.workdir / 'ablation.md', text)
  write_text(plan.workdir / 'ablation.json', json.dumps(_figures(plan, cells), indent=2) + '\n')
  write_gallery(
    plan.workdir / 'report.html',
    plan.title,
    _notes(plan, results),
    [_table(plan, source, cells) for source in sources],
    rows=_samples(plan, results, sources),
  )
  print(f'\n{text}')
  for name in ('ablation.md', 'ablation.json', 'report.html'):
    print(printable(plan.workdir / name))


class _Cell:
  """A number with its interval, and that of its difference from the reference row."""

  def __init__(self, value: Interval, difference: Interval | None):
    self.value, self.difference = value, difference

  def __str__(self) -> str:
    return table_cell(self.value, self.difference is not None and self.difference.excludes_zero)


def _cell(plan: Ablation, results: Results, row: str, source: str, metric: Metric) -> _Cell:
  rows = results.scores[row, source, metric.name]
  value = bootstrap(rows, metric.summarize, runs=True)
  if row == plan.reference or plan.reference not in plan.rows:
    return _Cell(value, None)
  base = results.scores[plan.reference, source, metric.name]
  return _Cell(value, bootstrap_difference(rows, base, metric.summarize, runs=True))


def _markdown(plan: Ablation, results: Results, sources: list[str], cells: dict) -> str:
  parts = [f'# {plan.title}', _notes(plan, results)]
  for source in sources:
    heads = ['', *(metric.title for metric in plan.metrics)]
    lines = [f'| {" | ".join(heads)} |', f'|{"---|" * len(heads)}']
    for row in plan.rows:
      shown = [str(cells[source, row, metric.name]) for metric in plan.metrics]
      lines.append(f'| {row} | {" | ".join(shown)} |')
    parts.append(f'Videos from the {source}:\n\n' + '\n'.join(lines))
  parts.append('\n'.join(f'- {metric.protocol}' for metric in plan.metrics))
  return '\n\n'.join(parts) + '\n'


def _notes(plan: Ablation, results: Results) -> str:
  clip = results.clips[0]
  frames, height, width = clip.ids.shape
  return (
    f'{len(results.clips)} clips x {plan.seeds} seeds, {frames} frames of {height} x {width} at'
    f' {clip.fps:g} fps. Cells are value [95 % interval] over training seeds and clips; bold'
    f' where the interval of the paired difference from row "{plan.reference}" excludes 0.'
  )


def _table(plan: Ablation, source: str, cells: dict) -> Table:
  rows = [
    [row, *(str(cells[source, row, m.name]).replace('**', '') for m in plan.metrics)]
    for row in plan.rows
  ]
  return Table(f'Videos from the {source}', ['', *(m.title for m in plan.metrics)], rows)


def _samples(plan: Ablation, results: Results, sources: list[str]) -> list[Row]:
  rows = []
  shown = len(next(iter(results.videos.values())))
  for i, clip in enumerate(results.clips[:shown]):
    panels = [Panel('ground truth', clip.video, clip.fps)]
    panels += [
      Panel(f'{row}, {source}', results.videos[row, source][i], clip.fps)
      for source in sources
      for row in plan.rows
    ]
    texts = {'caption': clip.caption, 'motion': clip.motion, 'objects': '; '.join(clip.prompts)}
    rows.append(Row(clip.key, texts, panels))
  return rows


def _figures(plan: Ablation, cells: dict) -> dict[str, Any]:
  made: dict[str, Any] = {'title': plan.title, 'seeds': plan.seeds, 'reference': plan.reference}
  for (source, row, metric), cell in cells.items():
    made.setdefault(source, {}).setdefault(row, {})[metric] = {
      'value': _numbers(cell.value),
      'difference': None if cell.difference is None else _numbers(cell.difference),
    }
  return made


def _numbers(interval: Interval) -> list[float | None]:
  numbers = (interval.value, interval.low, interval.high)
  return [None if math.isnan(x) else round(float(x), 5) for x in numbers]
