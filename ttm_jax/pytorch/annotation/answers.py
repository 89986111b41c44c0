"""Parse the answers of a language model strictly: return a clear answer or raise Reject.

    Motion-specific prompt: "The dog runs after the ball."
    Answer: [[dog: a brown dog that runs] [ball: a red ball that rolls]]

The input is the generated text only, without the prompt and its examples. The label at the
beginning may be missing, since a prompt template can end in it. Text around an answer is removed:
reasoning, Markdown, code fences, quotation marks, bullets, and an introductory or closing line.
Models often continue with further examples, so only the first answer counts.
"""

import json
import re
from typing import Any

from ttm_jax.pytorch.annotation.markup import BULLET, bare, first_line, plain, without_bullet
from ttm_jax.pytorch.annotation.rejection import Reject

MAX_WORDS = 60  # Most words of one prompt; longer answers are degenerate.
_LEAST_LETTERS = 4  # Fewest letters of a motion prompt without a label.

_MOTION_MARK = re.compile(
  r'motion[-\s_\u2010-\u2015]*specific[-\s_]*prompt["\'\s]*(?:is\s*)?(?::|$)', re.I | re.M
)
_OBJECTS_MARK = re.compile(r'\banswer["\'\s]*(?:is\s*)?:', re.I)
_CAPTION = re.compile(r'^[ \t]*caption[ \t]*:', re.I | re.M)

# Introductory phrases before an answer, or on a line of their own.
_CHATTER = re.compile(
  r'(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|great|understood|got it)\s*[!.,]\s*'
  r'|(?:here (?:is|are)|here.s|the following|below (?:is|are))\b[^:]{0,120}:\s*'
  r'|(?:output|response|answer|prompt|sentence|motion(?: prompt)?)\s*:\s*',
  re.I,
)
_REFUSAL = re.compile(
  r'(?:(?:i am |i.?m )?(?:very )?sorry|i apologi[sz]e|unfortunately|i can(?: ?not|.?t)'
  r'|(?:i am|i.?m) unable|i do(?: not|n.?t)|as an ai|please provide|could you)\b',
  re.I,
)
_NOTHING = ('', 'none', 'n/a', 'no motion', 'nothing')

_LIST = re.compile(r'\[\s*(?:\[|[^\[\]:]+:\s*[^\s\[\]])')
_ENTRY = re.compile(r'\[\s*([^\[\]:]+?)\s*:\s*([^\[\]]+?)\s*\]')
_BETWEEN = re.compile(rf'(?:[\s,;.|>]|{BULLET}|and\b)*', re.I)
_LINE = re.compile(rf'^[ \t>]*{BULLET}[ \t]+([^\[\]{{}}:]{{1,60}}):[ \t]*(\S[^\[\]{{}}]*)$')
_NUMBERED = re.compile(r'(?:(?:object|obj|item|name)\s*)?#?\d*', re.I)
_SECOND = re.compile(r'[,;]\s*[\w-]+(?: [\w-]+){0,2}\s*:\s')


def parse_motion(text: str) -> str:
  """Return the motion prompt in an answer.

  Raises:
    Reject: if there is none, or it has more than MAX_WORDS words.
  """
  text = bare(text)
  for number, part in enumerate(_CAPTION.split(text)):
    marks = list(_MOTION_MARK.finditer(part))
    for mark in marks:
      if prompt := _sentence(part[mark.end() :]):
        return prompt
    if not number and not marks and (prompt := _unmarked(part)):
      return prompt
  raise Reject('no motion prompt in the answer of the language model', _short(text))


def parse_objects(text: str, max_objects: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Return the names and prompts of the objects in an answer, in order.

  Args:
    text: text that the model generated.
    max_objects: most objects to accept.

  Raises:
    Reject: if there is no list, it is truncated, malformed or empty, it has duplicate names or more
      than `max_objects` objects, or a name or prompt is too long.
  """
  text = bare(text)
  entries = None
  for number, part in enumerate(_CAPTION.split(text)):
    mark = _OBJECTS_MARK.search(part)
    if mark or not number:
      entries = _entries(part[mark.end() :] if mark else part)
      if entries is not None:
        break
  if entries is None:
    raise Reject('no list of objects in the answer of the language model', _short(text))
  pairs = [_named(plain(name), plain(prompt)) for name, prompt in entries]
  if not pairs:
    raise Reject('no object in the list of the language model', _short(text))
  names, prompts = zip(*pairs, strict=True)
  if not all(map(_says_something, (*names, *prompts))):
    raise Reject('the list of objects contains something other than objects', _short(text))
  if len(names) > max_objects:
    raise Reject('too many objects', f'{len(names)}, at most {max_objects}')
  lower = [name.lower() for name in names]
  twice = next((name for name in lower if lower.count(name) > 1), None)
  if twice:
    raise Reject('two objects with the same name', twice)
  for prompt in (*names, *prompts):
    _check_length(prompt)
  return names, prompts


def _sentence(after: str) -> str:
  """Return the prompt that follows a label, or '' if there is none."""
  said = first_line(after)
  if said.lower().strip('.!') in _NOTHING or not _says_something(said) or _REFUSAL.match(said):
    return ''
  _check_length(said)
  return said


def _unmarked(text: str) -> str:
  """Return the prompt of an answer without a label: its first line after introductory text."""
  for line in text.splitlines():
    line = without_bullet(line).strip()
    while found := _CHATTER.match(line):
      line = line[found.end() :]
    if line and not line.endswith(':'):
      # Reject a single stray token.
      prose = line.isprintable() and sum(map(str.isalpha, line)) >= _LEAST_LETTERS
      return _sentence(line) if prose else ''
  return ''


def _entries(text: str) -> list[tuple[str, str]] | None:
  """Return the objects of a bracketed, JSON or bulleted list, or None if there is no list.

  Raises:
    Reject: if the list is truncated or malformed.
  """
  if (listed := _from_json(text)) is not None:
    return listed
  found = _LIST.search(text)
  start = found.start() if found else text.find('[')
  if start >= 0:
    return _in_brackets(text[start:])
  lines = [line for line in text.splitlines() if line.strip() and not line.rstrip().endswith(':')]
  items = [_LINE.match(line) for line in lines]
  return [(item[1], item[2]) for item in items if item] if items and all(items) else None


def _in_brackets(listed: str) -> list[tuple[str, str]]:
  # The outer brackets may be missing: the text is then one entry or a row of entries.
  outer = bool(re.match(rf'\[\s*(?:{BULLET}\s*)?[\[\]]', listed))
  position = 1 if outer else 0
  entries: list[tuple[str, str]] = []
  while True:
    between = _BETWEEN.match(listed, position)
    position = between.end() if between else position
    if outer and listed[position : position + 1] == ']':
      return entries
    entry = _ENTRY.match(listed, position)
    if entry is None:
      if not outer and entries and listed[position : position + 1] != '[':
        break
      opened = listed.count('[', position) > listed.count(']', position) or position >= len(listed)
      reason = 'is truncated' if opened else 'contains something other than objects'
      raise Reject(f'the list of objects {reason}', _short(listed[position:]))
    entries.append((entry[1], entry[2]))
    position = entry.end()
  if len(entries) == 1 and _SECOND.search(entries[0][1]):  # [dog: a dog, ball: a ball]
    raise Reject('the list has several objects within one pair of brackets', _short(listed))
  return entries


def _from_json(text: str) -> list[tuple[str, str]] | None:
  """Return the objects of a JSON list or object, or None if there is none."""
  start = re.search(r'[\[{]', text)
  if start is None or not re.match(r'[\[{]\s*(?:[\[{]\s*)?"', text[start.start() :]):
    return None
  try:
    value, _ = json.JSONDecoder().raw_decode(text, start.start())
  except (ValueError, RecursionError):
    return None
  pairs = [_pair(entry) for entry in (value.items() if isinstance(value, dict) else value)]
  return None if None in pairs else [pair for pair in pairs if pair is not None]


def _pair(entry: Any) -> tuple[str, str] | None:
  """Return name and prompt of ("a", "b"), {"a": "b"}, {"name": "a", "x": "b"} or "a: b"."""
  if isinstance(entry, dict):
    values = list(entry.values())
    named = len(values) == 2 and next(iter(entry)).lower() in ('name', 'noun', 'object', 'label')
    entry = values if named else next(iter(entry.items())) if len(values) == 1 else None
  if isinstance(entry, str):
    entry = entry.split(':', 1)
  if isinstance(entry, list | tuple) and len(entry) == 2 and all(isinstance(e, str) for e in entry):
    return entry[0], entry[1]
  return None


def _named(name: str, prompt: str) -> tuple[str, str]:
  """Return name and prompt; if the name is only a number ("object 1"), split both from the prompt.

  Raises:
    Reject: if the name is a number and the prompt contains no name.
  """
  if _NUMBERED.fullmatch(name) and name:
    number = name
    name, colon, prompt = prompt.partition(':')
    if not colon:
      raise Reject('an object has a number instead of a name', number)
  return name.strip(), prompt.strip()


def _says_something(text: str) -> bool:
  return any(c.isalnum() for c in text)


def _check_length(prompt: str) -> None:
  if len(prompt.split()) > MAX_WORDS:
    raise Reject('a prompt of the language model is too long', f'{len(prompt.split())} words')


def _short(text: str) -> str:
  line = ' '.join(text.split())
  return f'"{line[:80]}..."' if len(line) > 80 else f'"{line}"'
