"""Hooks of MkDocs: pages made from the code, pages from the root of the repository, links, figures.

Links are written so that they also work between the files of the repository.
"""

import functools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from docs.generate import api, commands, lists, notebook, settings  # noqa: E402

# Files of the root that are pages of the site.
_OF_ROOT = {
  'CONTRIBUTING.md': 'contributing.md',
  'SECURITY.md': 'security.md',
  'CHANGELOG.md': 'changelog.md',
  'README.md': 'index.md',
}
# Links to files of the repository that are no pages; their text stays.
_OUTSIDE = re.compile(r'\[([^\]]*)\]\((?:CITATION\.cff|LICENSE)\)')
_MARK = re.compile(r'<!--.*?-->')
_FIGURE = re.compile(r'!\[(?P<alt>[^\]]*)\]\((?P<path>figures/[\w-]+\.svg)\)')


def on_files(files, config):
  """Add the generated pages."""
  from mkdocs.structure.files import File

  made = {
    'reference/commands.md': _once(commands.page),
    'reference/configuration.md': _once(settings.page),
    'reference/configurations.md': _once(settings.configurations),
    **{api.file_name(title): api.page(title) for title in api.PAGES},
  }
  made |= {page: (ROOT / name).read_text() for name, page in _OF_ROOT.items()}
  made |= notebook.page(ROOT / 'docs' / 'quickstart.ipynb')
  for path, content in made.items():
    files.append(File.generated(config, path, content=content))
  return files


def on_page_markdown(markdown, page, config, files):
  """Point links to pages of the site, and put figures into the page, where they get its colors."""
  up = '../' * page.file.src_uri.count('/')
  for name, target in _OF_ROOT.items():
    markdown = re.sub(rf'\]\((\.\./)*{re.escape(name)}(?=[)#])', f']({up}{target}', markdown)
  if page.file.src_uri in _OF_ROOT.values():
    markdown = markdown.replace('](docs/', '](')
    markdown = _OUTSIDE.sub(r'\1', markdown)
  if page.file.src_uri.startswith('reference/'):
    markdown = re.sub(
      r'(?<![`/\w])docs/([\w-]+)\.md', lambda m: f'[{m[1]}]({up}{m[1]}.md)', markdown
    )
  markdown = markdown.replace('](quickstart.ipynb)', '](notebook.md)')
  markdown = _MARK.sub('', markdown)
  if page.file.src_uri == 'index.md':
    page.meta['hide'] = ['navigation']
  if page.file.src_uri == 'reference/configurations.md':
    page.meta['search'] = {'exclude': True}  # A seventh of the search index, and rarely sought.
  markdown = lists.indented(markdown)
  return _FIGURE.sub(lambda match: _inline(match['path'], match['alt']), markdown)


@functools.cache
def _once(make):
  """Return the result of a function, made once for all builds of `mkdocs serve`."""
  return make()


def _inline(path: str, alt: str) -> str:
  """Return a figure as HTML in one line, which Markdown leaves alone."""
  svg = (ROOT / 'docs' / path).read_text()
  svg = re.sub(r'<\?xml.*?\?>|<!--.*?-->|\n\s*', ' ', svg, flags=re.DOTALL)
  return f'<figure class="drawing" tabindex="0" aria-label="{alt}">{svg.strip()}</figure>'
