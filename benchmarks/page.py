"""Write docs/measurements.md, and the figures that other pages quote, from benchmarks/results/.

    python -m benchmarks.page

A result is one JSON file: title, machine, date, and content in order: paragraphs, commands, tables.
`index.json` lists the results by section. Another page quotes a table or a figure between marks,
which this command fills in:

    <!-- result: NAME -->         a table of index.json, on lines of its own
    <!-- /result -->
    <!-- result: NAME/0 -->       the first table of a result, likewise
    <!-- /result -->
    <!--=NAME/FIGURE-->1.5<!--/-->        an entry of `figures` of a result, within a sentence

`--check` writes nothing and exits with code 1 if a page differs. To add a result, write its file
and list it in index.json.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from ttm_jax.arguments import command_parser
from ttm_jax.atomic import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
PAGE = ROOT / 'docs' / 'measurements.md'

_TABLE = re.compile(r'(<!-- result: (?P<name>[\w/-]+) -->\n).*?(<!-- /result -->)', re.DOTALL)
_FIGURE = re.compile(r'(<!--=(?P<name>[\w-]+)/(?P<figure>[\w-]+)-->).*?(<!--/-->)', re.DOTALL)
_FIELDS = {'title', 'machine', 'date', 'content', 'figures'}


def read(name: str) -> dict[str, Any]:
  """Return a result.

  Args:
    name: of its file, without `.json`.

  Raises:
    ValueError: if a field is missing, empty or unknown, or there is no command.
  """
  result = json.loads((RESULTS / f'{name}.json').read_text())
  if unknown := result.keys() - _FIELDS:
    raise ValueError(f'{name}.json: unknown fields {sorted(unknown)}')
  for field in ('title', 'machine', 'date', 'content'):
    if not result.get(field):
      raise ValueError(f'{name}.json: {field} is missing')
  if not re.fullmatch(r'\d{4}-\d\d-\d\d', result['date']):
    raise ValueError(f'{name}.json: the date {result["date"]!r} is not of the form 2026-11-29')
  if not any('command' in part for part in result['content'] if isinstance(part, dict)):
    raise ValueError(f'{name}.json: no command')
  return result


def index() -> dict[str, Any]:
  """Return introduction, sections and quoted tables."""
  return json.loads((RESULTS / 'index.json').read_text())


def page() -> str:
  """Return the page of all results as Markdown."""
  listed = index()
  lines = ['# Measurements', '', *_content(listed['intro'])]
  for section in listed['sections']:
    lines += [f'## {section["title"]}', '', *_content(section.get('content', []))]
    for name in section.get('results', []):
      result = read(name)
      lines += [f'### {result["title"]}', '', f'*{result["machine"]}; {result["date"]}.*', '']
      lines += _content(result['content'])
  return '\n'.join(lines).rstrip() + '\n'


def filled(text: str) -> str:
  """Return a page with current values between all marks.

  Raises:
    ValueError: if a mark names an unknown table or figure.
  """
  tables = index()['tables']

  def table(match: re.Match) -> str:
    name, slash, number = match['name'].partition('/')
    if slash:
      lines = _table(_tables(name)[int(number)])
    elif name in tables:
      lines = _table(_resolved(tables[name]))
    else:
      raise ValueError(f'index.json has no table {name!r}')
    return '\n'.join([match[1].rstrip(), *lines, match[3]])

  def figure(match: re.Match) -> str:
    figures = read(match['name']).get('figures', {})
    if match['figure'] not in figures:
      raise ValueError(f'{match["name"]}.json has no figure {match["figure"]!r}')
    return f'{match[1]}{figures[match["figure"]]}{match[4]}'

  return _FIGURE.sub(figure, _TABLE.sub(table, text))


def pages() -> dict[Path, str]:
  """Return the content that each page should have, by its path."""
  made = {PAGE: page()}
  for path in [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]:
    if path != PAGE and (path.read_text() != (text := filled(path.read_text())) or '<!--' in text):
      made[path] = text
  return made


def main() -> None:
  """Write the pages, or check them."""
  made = command_parser('benchmarks.page', __doc__)
  made.add_argument(
    '--check', action='store_true', help='only compare; exit with 1 on a difference'
  )
  args = made.parse_args()
  stale = [path for path, text in pages().items() if path.read_text() != text]
  for path in stale:
    print(f'{path.relative_to(ROOT)} {"differs" if args.check else "written"}')
    if not args.check:
      write_text(path, pages()[path])
  sys.exit(bool(stale) if args.check else 0)


def _content(parts: list[Any]) -> list[str]:
  """Return paragraphs, commands and tables as Markdown lines, each followed by an empty line."""
  lines: list[str] = []
  for part in parts:
    if isinstance(part, str):
      if part.startswith('- ') and lines[-2:-1] and lines[-2].startswith('- '):
        lines.pop()  # Items of a list stand together.
      lines += [part, '']
    elif 'command' in part:
      lines += [f'<!-- skip: {part["skip"]} -->'] if 'skip' in part else []
      lines += ['```bash', part['command'], '```', '']
    else:
      lines += [*_table(part), '']
  return lines


def _table(table: dict[str, Any]) -> list[str]:
  bold = table.get('bold', [])
  lines = [_row(table['columns']), '|' + '---|' * len(table['columns'])]
  for i, row in enumerate(table['rows']):
    lines.append(_row([f'**{cell}**' if i in bold and cell != '' else cell for cell in row]))
  return lines


def _row(cells: list[Any]) -> str:
  return f'| {" | ".join(map(str, cells))} |'


def _resolved(table: dict[str, Any]) -> dict[str, Any]:
  """Return a quoted table with each reference, '=NAME/TABLE/ROW/COLUMN', replaced by its value.

  TABLE counts the tables of a result from 0; ROW is the first cell of a row.
  """

  def value(cell: Any) -> Any:
    if not (isinstance(cell, str) and cell.startswith('=')):
      return cell
    return _looked_up(*cell[1:].split('/'))

  return {**table, 'rows': [[value(cell) for cell in row] for row in table['rows']]}


def _looked_up(name: str, table: str, row: str, column: str) -> Any:
  found = _tables(name)[int(table)]
  rows = {cells[0]: cells for cells in found['rows']}
  return rows[row][found['columns'].index(column)]


def _tables(name: str) -> list[dict[str, Any]]:
  """Return the tables of a result in order."""
  return [part for part in read(name)['content'] if isinstance(part, dict) and 'rows' in part]


if __name__ == '__main__':
  main()
