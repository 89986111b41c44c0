"""Write the tables of an ablation as Markdown, JSON and a page with the videos side by side."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
from tqdm import tqdm

from ttm_jax.atomic import write_text
from ttm_jax.errors import printable
from ttm_jax.metrics.ablation import Ablation, Results
from ttm_jax.metrics.base import Metric
from ttm_jax.metrics.intervals import (
  Interval,
  bootstrap,
  bootstrap_difference,
  by_seed,
  table_cell,
)
from ttm_jax.report.gallery import Panel, Row, Table, write_gallery


def write(plan: Ablation, results: Results) -> None:
  """Write ablation.md, ablation.json and report.html to the work directory, and print the tables.

  Raises:
    OSError: a file cannot be written.
  """
  sources = list(dict.fromkeys(source for _, source, _ in results.scores))
  cells = _cells(plan, results, sources)
  text = _markdown(plan, results, sources, cells)
  write_text(plan.workdir / 'ablation.md', text)
  write_text(plan.workdir / 'ablation.json', json.dumps(_figures(plan, cells), indent=2) + '\n')
  write_gallery(
    plan.workdir / 'report.html',
    plan.title,
    _notes(plan, results),
    [
      _table(plan, title, names, source, cells)
      for source in sources
      for title, names in _tables(plan, source).items()
    ],
    rows=_samples(plan, results, sources),
  )
  print(f'\n{text}')
  for name in ('ablation.md', 'ablation.json', 'report.html'):
    print(printable(plan.workdir / name))


@dataclasses.dataclass(frozen=True)
class _Cell:
  """A number of the tables.

  Attributes:
    value: the number with its interval.
    by_run: the number of each seed.
    difference: that from the reference row; None in that row. That of a difference is itself.
  """

  value: Interval
  by_run: list[float]
  difference: Interval | None

  def __str__(self) -> str:
    return table_cell(self.value, self.difference is not None and self.difference.excludes_zero)


def _cells(plan: Ablation, results: Results, sources: list[str]) -> dict:
  """Return the cells of all tables by (source, row or difference, metric)."""
  others = [(row, plan.reference) for row in plan.rows if row != plan.reference]
  pairs = dict.fromkeys([*(others if plan.reference in plan.rows else ()), *plan.differences])
  jobs = [(source, metric) for source in sources for metric in plan.metrics]
  cells = {}
  for source, metric in tqdm(jobs, 'intervals', unit='column'):
    rows = {row: results.scores[row, source, metric.name] for row in plan.rows}
    differences = {pair: _difference(metric, *(rows[row] for row in pair)) for pair in pairs}
    for row, values in rows.items():
      compared = differences.get((row, plan.reference))
      cells[source, row, metric.name] = _Cell(
        bootstrap(values, metric.summarize, runs=True),
        by_seed(values, metric.summarize),
        None if compared is None else compared.value,
      )
    for pair in plan.differences:
      cells[source, _name(pair), metric.name] = differences[pair]
  return cells


def _difference(metric: Metric, rows: np.ndarray, less: np.ndarray) -> _Cell:
  value = bootstrap_difference(rows, less, metric.summarize, runs=True)
  return _Cell(value, by_seed(rows, metric.summarize, less), value)


def _name(pair: tuple[str, str]) -> str:
  return ' - '.join(pair)


def _tables(plan: Ablation, source: str) -> dict[str, list[str]]:
  """Return the lines of each table of a source, by its title."""
  tables = {f'Videos from the {source}': list(plan.rows)}
  pairs = [_name(pair) for pair in plan.differences]
  return tables | ({f'Differences, videos from the {source}': pairs} if pairs else {})


def _markdown(plan: Ablation, results: Results, sources: list[str], cells: dict) -> str:
  parts = [f'# {plan.title}', _notes(plan, results)]
  for source in sources:
    heads = ['', *(metric.title for metric in plan.metrics)]
    for title, names in _tables(plan, source).items():
      lines = [f'| {" | ".join(heads)} |', f'|{"---|" * len(heads)}']
      for name in names:
        shown = [str(cells[source, name, metric.name]) for metric in plan.metrics]
        lines.append(f'| {name} | {" | ".join(shown)} |')
      parts.append(f'{title}:\n\n' + '\n'.join(lines))
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


def _table(plan: Ablation, title: str, names: list[str], source: str, cells: dict) -> Table:
  rows = [
    [name, *(str(cells[source, name, m.name]).replace('**', '') for m in plan.metrics)]
    for name in names
  ]
  return Table(title, ['', *(m.title for m in plan.metrics)], rows)


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
      'by_run': _rounded(cell.by_run),
      'difference': None if cell.difference is None else _numbers(cell.difference),
    }
  return made


def _numbers(interval: Interval) -> list[float | None]:
  return _rounded([interval.value, interval.low, interval.high])


def _rounded(numbers: list[float]) -> list[float | None]:
  return [None if math.isnan(x) else round(float(x), 5) for x in numbers]
