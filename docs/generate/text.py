"""Markdown for texts that come from the code."""

import re


def cell(text: str) -> str:
  """Return plain text as the content of a table cell; what is in backticks stays code."""
  parts = re.split(r'(`[^`]*`)', text.replace('\n', ' '))
  return ''.join(part if part[:1] == '`' else _escaped(part) for part in parts).replace('|', r'\|')


def code_cell(text: str) -> str:
  """Return a value in code format as the content of a table cell; empty for an empty text."""
  return f'`{text}`'.replace('|', r'\|') if text else ''


def _escaped(text: str) -> str:
  return re.sub(r'([\\*_])', r'\\\1', text).replace('<', '&lt;')
