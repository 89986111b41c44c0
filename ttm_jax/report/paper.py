"""The tables of the paper, from paper_tables.json: numbers to set beside our own.

Columns are named as the metrics of `metrics.registry`; `prefer_*` are the percentages of raters who
prefer the paper's method, by the questions of `metrics.votes`. They depend on clips, number of
videos, frames and size: FVD above all must not be compared across numbers of videos.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TABLES = Path(__file__).with_name('paper_tables.json')


class PaperTable(NamedTuple):
  """Some columns of a table of the paper.

  Attributes:
    caption: its number, benchmark and number of videos.
    columns: names of the columns.
    rows: name of the method and its values as texts, '' where the paper has none.
  """

  caption: str
  columns: list[str]
  rows: list[tuple[str, list[str]]]


def paper_tables(columns: Sequence[str]) -> list[PaperTable]:
  """Return the tables of the paper with the chosen columns that they have; none without any."""
  values = json.loads(TABLES.read_text())
  chosen = [name for name in values['columns'] if name in columns]
  found = []
  for table in values['tables'] if chosen else []:
    rows = []
    for method, numbers in table['rows'].items():
      shown = [
        f'{number:.{digits}f}'
        for number, digits in zip(numbers, values['decimals'][: len(numbers)], strict=True)
      ]
      shown += [''] * (len(values['columns']) - len(shown))
      rows.append((method, [shown[values['columns'].index(name)] for name in chosen]))
    rows = [row for row in rows if any(row[1])]
    if rows:
      caption = f'Table {table["number"]}: {table["benchmark"]}, {table["videos"]} videos'
      found.append(PaperTable(caption, chosen, rows))
  return found
