"""The parts of the site that are made from the code, and the whole of it."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import figures, lists

ROOT = Path(__file__).parents[2]
FIRST_PAGE_LIMIT = 500_000  # Bytes as sent, without images.


@pytest.mark.parametrize('name', figures.FIGURES)
def test_figures_are_up_to_date(name):
  drawn = figures.FIGURES[name]().svg()
  assert (figures.FOLDER / f'{name}.svg').read_text() == drawn, 'python -m docs.generate.figures'


def test_colors_are_up_to_date():
  assert figures.STYLE.read_text() == figures.colors(), 'python -m docs.generate.figures'


def test_sorting_leaves_fewer_blocks():
  svg = (figures.FOLDER / 'score-matrix.svg').read_text()
  (raster, of), (ordered, _) = re.findall(r'(\d+) of (\d+) blocks', svg)
  assert int(ordered) < int(raster) == int(of)


def test_items_of_lists_are_indented_as_python_markdown_needs():
  page = '- a\n  b\n\n  ```bash\n  x\n  ```\n\n1. c\n\n   d\n\ne\n\n```\n- f\n```\n'
  assert lists.indented(page) == (
    '- a\n    b\n\n    ```bash\n    x\n    ```\n\n1. c\n\n    d\n\ne\n\n```\n- f\n```\n'
  )


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
  """The site, built strictly: a broken link or a missing page fails."""
  out = tmp_path_factory.mktemp('site')
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', out]
  ended = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
  assert ended.returncode == 0, ended.stdout + ended.stderr
  return out


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
  loaded = re.compile(
    r'<(?:script|img|iframe|source|video)[^>]*\ssrc="?(https?:)?//|<link[^>]*href="?https?://'
  )
  for page in site.rglob('*.html'):
    assert not loaded.search(page.read_text()), page
  for style in site.rglob('*.css'):
    assert not re.search(r'@import|url\(["\']?https?:', style.read_text()), style


@pytest.mark.slow
def test_the_first_page_is_light(site):
  page = (site / 'index.html').read_text()
  needed = re.findall(r'(?:href|src)="?([^" >]+\.(?:css|js))', page)
  assert len(needed) > 3
  files = [site / 'index.html', *(site / name for name in needed)]
  files += [*site.glob('assets/javascripts/workers/*.js'), site / 'search' / 'search_index.json']
  assert sum(len(gzip.compress(file.read_bytes())) for file in files) < FIRST_PAGE_LIMIT
  plain = [file for file in files if file.name != 'search_index.json']  # It is read afterwards.
  assert sum(file.stat().st_size for file in plain) < FIRST_PAGE_LIMIT


@pytest.mark.slow
def test_pages_can_be_searched(site):
  found = json.loads((site / 'search' / 'search_index.json').read_text())['docs']
  places = {entry['location'].partition('#')[0] for entry in found}
  assert {'troubleshooting/', 'reference/commands/', 'reference/api/trajectories/'} <= places
