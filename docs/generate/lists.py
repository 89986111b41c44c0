"""Lists as Python-Markdown reads them.

In the repository, what belongs to an item is indented by the width of its marker, as CommonMark has
it: 2 for `- `, 3 for `1. `. Python-Markdown needs 4.
"""

import re

_MARKER = re.compile(r'(- |\d+\. )')
_FENCE = re.compile(r'\s*```')


def indented(markdown: str) -> str:
  """Return a page with the content of list items indented by 4.

  Args:
    markdown: the page, whose lists are at most two levels deep.
  """
  lines, width, fence = [], 0, False
  for line in markdown.split('\n'):
    if not line.startswith(' ') and line and not (fence and width == 0):
      marker = _MARKER.match(line)
      width = len(marker[1]) if marker else 0
    elif width and line.startswith(' ' * width):
      line = ' ' * 4 + line[width:]
    if _FENCE.match(line):
      fence = not fence
    lines.append(line)
  return '\n'.join(lines)
