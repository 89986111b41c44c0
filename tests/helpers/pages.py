"""Read what a browser would load and run of a page."""

import base64
import hashlib
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
  """A parsed page.

  Attributes:
    tags: names of the elements.
    sources: what the page loads, by elements and scripts (`data-src`).
    attributes: (tag, attributes) of every element.
    text: the text.
    script: the text of scripts.
  """

  def __init__(self, path: Path):
    super().__init__()
    self.tags: list[str] = []
    self.sources: list[str] = []
    self.attributes: list[tuple[str, dict[str, str]]] = []
    self.text = self.script = ''
    self._in = ''
    self.feed(path.read_text(encoding='utf-8'))

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes.append((tag, dict(attrs)))
    loads = ('src', 'href', 'srcset', 'data', 'poster', 'data-src')
    self.sources += [v for k, v in attrs if k in loads]
    self._in = tag

  def handle_endtag(self, tag):
    self._in = ''

  def handle_data(self, data):
    if self._in == 'script':
      self.script += data
    elif self._in != 'style':
      self.text += data

  def check_policy(self) -> None:
    """Check that the page runs one script, the one that its policy names, and loads no other."""
    (policy,) = (a['content'] for t, a in self.attributes if t == 'meta' and 'http-equiv' in a)
    digest = base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert self.tags.count('script') == 1 and 'link' not in self.tags
    assert not [s for s in self.sources if '://' in s or s.startswith(('/', 'data:'))]
    assert not [name for _, given in self.attributes for name in given if name.startswith('on')]
