"""Remove reasoning, Markdown, special tokens and quotation marks around an answer of an LLM."""

import re

_THOUGHT = r'(?:think|thinking|thought|reasoning|analysis)'
_THOUGHT_END = re.compile(rf'</{_THOUGHT}>|\bassistantfinal', re.I)
_THOUGHT_START = re.compile(rf'<{_THOUGHT}>.*', re.I | re.S)
_SPECIAL = re.compile(r'<\|[^<>|]*\|>|</?s>|<(?:eos|bos|pad|end_of_turn|start_of_turn)>', re.I)
_FENCE = re.compile(r'^[ \t]*(?:```|~~~)[\w-]*[ \t]*$', re.M)
_EMPHASIS = re.compile(
  r'\*+(?=\S)|(?<=\S)\*+|`+|(?<!\w)__?(?=\S)|(?<=\S)__?(?!\w)|^[ \t]*#+ ', re.M
)
_COLONS = str.maketrans({'\uff1a': ':'})  # Full-width colon, as in Chinese text.

BULLET = r'(?:[-*+\u2022\u2023\u00b7\u2013]|\(?\d{1,2}[.)])'
_BULLETS = re.compile(rf'[ \t>]*(?:{BULLET}[ \t]+)*')

_OPENING, _CLOSING = '"\u201c\u201e\u00ab', '"\u201d\u201c\u00bb'
_QUOTES = '"\'\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb'
# A quotation up to a quotation mark that follows the end of a sentence, or else to the last mark.
_QUOTED_SENTENCE = re.compile(rf'[{_OPENING}](.+?[.!?])\s*[{_CLOSING}](?=[\s.,;)\]}}]|$)', re.S)
_QUOTED = re.compile(rf'[{_OPENING}](.+)[{_CLOSING}]', re.S)


def bare(text: str) -> str:
  """Return a text without reasoning, special tokens, and Markdown emphasis, headings and fences.

  Reasoning that does not end is removed up to the end of the text.
  """
  ends = list(_THOUGHT_END.finditer(text))
  text = _THOUGHT_START.sub('', text[ends[-1].end() :] if ends else text)
  for what in (_SPECIAL, _FENCE, _EMPHASIS):
    text = what.sub('', text)
  return text.translate(_COLONS).strip()


def without_bullet(line: str) -> str:
  """Return a text without leading bullets, numbers or quote signs (>)."""
  return line[_BULLETS.match(line).end() :]  # type: ignore[union-attr]  # Always matches, perhaps ''.


def first_line(text: str) -> str:
  """Return the quotation at the start of a text, which may span lines, or else the first line.

  Return '' for an empty text.
  """
  text = without_bullet(text.lstrip())
  if not text:
    return ''
  line = text.splitlines()[0]
  if text[0] not in _OPENING:
    return plain(line)
  paragraph = re.split(r'\n\s*\n', text, maxsplit=1)[0]
  found = _QUOTED_SENTENCE.match(paragraph) or _QUOTED.match(line) or _QUOTED.match(paragraph)
  return plain(found[1] if found else line)


def plain(text: str) -> str:
  """Return a text without enclosing quotation marks or braces, and with single spaces."""
  return ' '.join(text.replace('*', ' ').split()).strip(_QUOTES + '{}').strip()
