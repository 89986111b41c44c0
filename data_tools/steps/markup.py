"""What language models put around an answer: thinking, Markdown, special tokens, quotes."""

import re

_THOUGHT = r'(?:think|thinking|thought|reasoning|analysis)'
_THOUGHT_END = re.compile(rf'</{_THOUGHT}>|\bassistantfinal', re.I)
_THOUGHT_START = re.compile(rf'<{_THOUGHT}>.*', re.I | re.S)
_SPECIAL = re.compile(r'<\|[^<>|]*\|>|</?s>|<(?:eos|bos|pad|end_of_turn|start_of_turn)>', re.I)
_FENCE = re.compile(r'^[ \t]*(?:```|~~~)[\w-]*[ \t]*$', re.M)
_EMPHASIS = re.compile(
  r'\*+(?=\S)|(?<=\S)\*+|`+|(?<!\w)__?(?=\S)|(?<=\S)__?(?!\w)|^[ \t]*#+ ', re.M
)
_COLONS = str.maketrans({'\uff1a': ':'})  # Full width, as in Chinese.

BULLET = r'(?:[-*+\u2022\u2023\u00b7\u2013]|\(?\d{1,2}[.)])'
_BULLETS = re.compile(rf'[ \t>]*(?:{BULLET}[ \t]+)*')

_OPENING, _CLOSING = '"\u201c\u201e\u00ab', '"\u201d\u201c\u00bb'
_QUOTES = '"\'\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb'
# Up to the mark that follows the end of a sentence; failing that, up to the last one.
_QUOTED_SENTENCE = re.compile(rf'[{_OPENING}](.+?[.!?])\s*[{_CLOSING}](?=[\s.,;)\]}}]|$)', re.S)
_QUOTED = re.compile(rf'[{_OPENING}](.+)[{_CLOSING}]', re.S)


def bare(text: str) -> str:
  """Return a text without thinking, special tokens, and Markdown's emphasis, headings and fences.

  Of thinking that does not end, nothing is left.
  """
  ends = list(_THOUGHT_END.finditer(text))
  text = _THOUGHT_START.sub('', text[ends[-1].end() :] if ends else text)
  for what in (_SPECIAL, _FENCE, _EMPHASIS):
    text = what.sub('', text)
  return text.translate(_COLONS).strip()


def without_bullet(line: str) -> str:
  """Return a text without the bullet, number or quote sign (>) that it begins with."""
  return line[_BULLETS.match(line).end() :]  # type: ignore[union-attr]  # Matches nothing, too.


def first_line(text: str) -> str:
  """Return the quotation that a text begins with, over several lines if need be, or its first line.

  Empty for an empty text.
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
  """Return a text without quotation marks around it, and with single spaces."""
  return ' '.join(text.replace('*', ' ').split()).strip(_QUOTES + '{}').strip()
