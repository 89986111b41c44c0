"""The table of scores: one row per metric, one column per system, and the difference of two.

A cell is `value [low, high]`. The better of two compared systems is bold only if the interval of
the difference excludes 0. `FEW` marks a number of fewer clips than the metric needs.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence

from ttm_jax.metrics.agreement import About
from ttm_jax.metrics.intervals import Interval
from ttm_jax.metrics.scoring import Scores
from ttm_jax.report.paper import PaperTable, paper_tables

FEW = '⚠'
HIGHER, LOWER = '↑', '↓'


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell of the table.

  Attributes:
    text: `value [low, high]`, and `FEW` if there are few clips.
    bold: whether the number is better than the one it is compared with.
  """

  text: str
  bold: bool = False


@dataclasses.dataclass(frozen=True)
class ScoreTable:
  """A table for people.

  Attributes:
    columns: its heads; the first is that of the metrics.
    rows: the title of a metric with its direction, and one cell for every other column.
    notes: what to know about the numbers, one sentence each.
    paper: tables of the paper that have some of the metrics.
  """

  columns: list[str]
  rows: list[tuple[str, list[Cell]]]
  notes: list[str]
  paper: list[PaperTable]


def score_table(scores: Scores, about: About) -> ScoreTable:
  """Return the table of scores."""
  columns = ['', *(system.name for system in scores.systems)]
  if scores.against is not None:
    columns.append('difference')
  rows = []
  for metric in scores.metrics:
    better = scores.better(metric)
    digits = _digits([numbers[metric.name] for numbers in scores.numbers])
    cells = [
      Cell(
        _text(numbers[metric.name], digits) + f' {FEW}' * scores.few(system, metric),
        system == better,
      )
      for system, numbers in enumerate(scores.numbers)
    ]
    if metric.name in scores.differences:
      cells.append(Cell(_text(scores.differences[metric.name], digits, '+'), better is not None))
    rows.append((f'{metric.title} {HIGHER if metric.higher_is_better else LOWER}', cells))
  return ScoreTable(
    columns, rows, notes_of(scores, about), paper_tables([m.name for m in scores.metrics])
  )


def notes_of(scores: Scores, about: About) -> list[str]:
  """Return what to know about the numbers: clips, seeds, size, protocols, and warnings."""
  first = scores.systems[0]
  frames, height, width = about.shape
  rate = 'of several frame rates' if about.fps is None else f'at {about.fps:g} per second'
  seeds = ', '.join(
    f'{len(one.seeds)} seed{"s" * (len(one.seeds) > 1)} of {one.name}' for one in scores.systems
  )
  notes = [
    f'{len(first.keys)} clips of {about.dataset}, split {about.split}; {seeds}; {frames} frames of'
    f' {width}x{height} pixels {rate}.',
    f'[low, high]: {scores.level:.0%} bootstrap interval over clips, {scores.draws} draws.',
  ]
  if scores.against is not None:
    other = scores.systems[scores.against].name
    notes.append(
      f'Difference: {first.name} less {other}. Bold: better, where its interval excludes 0.'
    )
  notes += [f'{metric.title}: {metric.protocol.rstrip(".")}.' for metric in scores.metrics]
  for metric in scores.metrics:
    few = [i for i in range(len(scores.systems)) if scores.few(i, metric)]
    if few:
      count = min(scores.systems[i].valued(metric.name) for i in few)
      notes.append(
        f'{FEW} {metric.title}: {count} clips, fewer than the {metric.least} that give a meaningful'
        ' number.'
      )
  return [*notes, *(f'{note.rstrip(".")}.' for note in about.notes)]


def markdown(table: ScoreTable) -> str:
  """Return the table, its notes and the paper's rows as Markdown."""
  lines = _grid(
    table.columns,
    [[name, *(f'**{c.text}**' if c.bold else c.text for c in cells)] for name, cells in table.rows],
  )
  lines += ['', *(f'- {_escaped(note)}' for note in table.notes)]
  if table.paper:
    lines += ['', '## In the paper', '', PAPER_NOTE]
  for paper in table.paper:
    lines += ['', f'{paper.caption}:', '']
    lines += _grid(['', *paper.columns], [[name, *values] for name, values in paper.rows])
  return '\n'.join(lines) + '\n'


PAPER_NOTE = (
  'Other clips, networks and sometimes protocols. Compare FVD only at the same number of videos,'
  ' frames, frame rate and size.'
)


def as_csv(scores: Scores) -> str:
  """Return one line per metric and system, and one per difference, as CSV."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(['metric', 'system', 'less', 'value', 'low', 'high', 'clips', 'seeds', 'few'])
  for metric in scores.metrics:
    for index, system in enumerate(scores.systems):
      number = scores.numbers[index][metric.name]
      counts = system.valued(metric.name), len(system.seeds), int(scores.few(index, metric))
      writer.writerow([metric.name, system.name, '', *_exact(number), *counts])
    if metric.name in scores.differences and scores.against is not None:
      first, other = scores.systems[0].name, scores.systems[scores.against].name
      writer.writerow([metric.name, first, other, *_exact(scores.differences[metric.name])])
  return file.getvalue()


def _exact(number: Interval) -> list[str]:
  return [repr(x) if math.isfinite(x) else '' for x in (number.value, number.low, number.high)]


def _text(number: Interval, digits: int, plus: str = '') -> str:
  """Return `value [low, high]`, or the value alone if there is no interval."""
  if math.isnan(number.value):
    return '–'  # noqa: RUF001
  value, *ends = (f'{x:{plus}.{digits}f}' for x in (number.value, number.low, number.high))
  return value if math.isnan(number.low) else f'{value} [{ends[0]}, {ends[1]}]'


def _digits(numbers: Sequence[Interval]) -> int:
  """Return the decimals that show three digits of the values and two of the intervals' widths."""
  found = [1]
  for number in numbers:
    found += [2 - _exponent(abs(number.value)), 1 - _exponent(number.high - number.low)]
  return min(max(found), 4)


def _exponent(x: float) -> int:
  return math.floor(math.log10(x)) if 0 < x < math.inf else 1


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Return the lines of a Markdown table."""
  lines = ['| ' + ' | '.join(map(_escaped, columns)) + ' |', '|---' * len(columns) + '|']
  return lines + ['| ' + ' | '.join(map(_escaped, row)) + ' |' for row in rows]


def _escaped(text: str) -> str:
  return ' '.join(text.split()).replace('|', '\\|')
