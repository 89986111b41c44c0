"""The page of measurements and the quoted figures are those of the result files."""

import json
import re

import pytest

from benchmarks import page


def test_pages_are_up_to_date():
  stale = [path.name for path, text in page.pages().items() if path.read_text() != text]
  assert stale == [], 'run python -m benchmarks.page'


def test_every_result_is_on_the_page():
  listed = [name for section in page.index()['sections'] for name in section.get('results', [])]
  files = {path.stem for path in page.RESULTS.glob('*.json')} - {'index'}
  assert sorted(listed) == sorted(files)
  text = page.page()
  for name in listed:
    result = page.read(name)
    assert f'### {result["title"]}\n\n*{result["machine"]}; {result["date"]}.*\n' in text


def test_tables_have_whole_rows():
  for path in page.RESULTS.glob('*.json'):
    for part in json.loads(path.read_text()).get('content', []):
      if isinstance(part, dict) and 'rows' in part:
        assert {len(row) for row in part['rows']} == {len(part['columns'])}, path.name


@pytest.mark.parametrize('field', ['machine', 'date', 'content'])
def test_what_a_result_lacks_is_named(field, tmp_path, monkeypatch):
  result = json.loads((page.RESULTS / 'demo.json').read_text())
  del result[field]
  (tmp_path / 'demo.json').write_text(json.dumps(result))
  monkeypatch.setattr(page, 'RESULTS', tmp_path)
  with pytest.raises(ValueError, match=field):
    page.read('demo')


def test_marks_are_filled_in():
  text = 'About <!--=demo/minutes-->?<!--/--> minutes.\n\n<!-- result: demo -->\n<!-- /result -->\n'
  minutes = page.read('demo')['figures']['minutes']
  filled = page.filled(text)
  assert filled.startswith(f'About <!--=demo/minutes-->{minutes}<!--/--> minutes.')
  assert '| stage 1 |' in filled and page.filled(filled) == filled
  with pytest.raises(ValueError, match='no figure'):
    page.filled('<!--=demo/hours-->?<!--/-->')


def test_a_table_of_a_result_is_quoted_by_its_number():
  filled = page.filled('<!-- result: gates/0 -->\nold\n<!-- /result -->\n')
  assert '\n| masked layers start with |' in filled and 'old' not in filled
  with pytest.raises(ValueError, match='no table'):
    page.filled('<!-- result: nothing -->\n<!-- /result -->\n')


# Counted or published numbers, which nothing measured.
NOT_MEASURED = {'recipe.md', 'wan.md', 'benchmarks.md'}
QUOTED = re.compile(r'<!-- result: .*?<!-- /result -->', re.DOTALL)
NUMBER = re.compile(r'\W*\d')


@pytest.mark.parametrize('path', sorted((page.ROOT / 'docs').glob('*.md')), ids=lambda p: p.name)
def test_no_table_of_measurements_is_written_by_hand(path):
  if path == page.PAGE or path.name in NOT_MEASURED:
    return
  rows = [line for line in QUOTED.sub('', path.read_text()).splitlines() if line.startswith('|')]
  cells = [cell for row in rows for cell in row.strip('|').split(' | ')[1:]]
  numbers = [cell for cell in cells if NUMBER.match(cell) and '`' not in cell]
  assert len(numbers) <= len(cells) / 4, numbers
