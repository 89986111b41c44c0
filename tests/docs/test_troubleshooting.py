"""Messages that the page on troubleshooting quotes are those of the code."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'troubleshooting.md'
OF_OTHERS = {'RESOURCE_EXHAUSTED', '1 x cpu', 'hang_limit', 'skipped', 'data_wait', 'mfu'}


def texts() -> list[str]:
  """Return the texts of the package; a value that is filled in becomes one \\0."""
  found = []
  for folder in ('ttm_jax', 'data_tools'):
    for path in (ROOT / folder).rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
          parts = (v.value if isinstance(v, ast.Constant) else '\0' for v in node.values)
          found.append(''.join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
          found.append(node.value)
  return found


def test_quoted_messages_exist():
  items = re.findall(r'- \*\*You see\*\*:(.*?)(?=\n- \*\*|\n\n)', PAGE.read_text(), re.DOTALL)
  quoted = {q for item in items for q in re.findall(r'`([^`]+)`', item)}
  messages = {q for q in quoted if ' ' in q} - OF_OTHERS
  assert len(messages) > 12
  known = texts()
  assert [m for m in messages if not any(m in text for text in known)] == []
