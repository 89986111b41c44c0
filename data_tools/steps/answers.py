"""What a language model wrote, read strictly: a clear answer or a reason, never a guess.

    Motion-specific prompt: "The dog runs after the ball."
    Answer: [[dog: a brown dog that runs] [ball: a red ball that rolls]]

Only text the model wrote itself may come in here, not the examples before it. Models like to go on
with examples of their own, so the first answer counts.
"""

import re

from data_tools.drafts import Reject

MOTION_MARK, OBJECTS_MARK = 'Motion-specific prompt:', 'Answer:'
MAX_WORDS = 60  # Of one prompt; a model that runs on has lost its way.

_ENTRY = re.compile(r'\[\s*([^\[\]:]+?)\s*:\s*([^\[\]]+?)\s*\]')
_BETWEEN = re.compile(r'[\s,;]*')
_QUOTES = '"\'\u201c\u201d\u2018\u2019'


def parse_motion(text: str) -> str:
  """The motion prompt of an answer.

  Raises:
    Reject: there is none, or it is too long.
  """
  before, mark, after = _partition(text, MOTION_MARK)
  if not mark:
    raise Reject('no motion prompt in the answer of the language model', _short(before))
  lines = after.strip().splitlines()
  prompt = _plain(lines[0]) if lines else ''
  if not prompt:
    raise Reject('no motion prompt in the answer of the language model', _short(text))
  _check_length(prompt)
  return prompt


def parse_objects(text: str, max_objects: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Names and prompts of the objects, in the order of an answer.

  Raises:
    Reject: there is no list, it breaks off, holds something else than objects, none, two of one
      name, or more than `max_objects`.
  """
  _, mark, after = _partition(text, OBJECTS_MARK)
  listed = after.lstrip()
  if not mark or not listed.startswith('['):
    raise Reject('no list of objects in the answer of the language model', _short(text))
  # The outer brackets may be missing: then the first entry stands alone or in a row.
  outer = bool(re.match(r'\[\s*(\[|\])', listed))
  position = 1 if outer else 0
  names: list[str] = []
  prompts: list[str] = []
  while True:
    position += len(_matched(_BETWEEN, listed, position))
    if outer and listed[position : position + 1] == ']':
      break
    entry = _ENTRY.match(listed, position)
    if entry is None:
      if not outer and names and listed[position : position + 1] != '[':
        break
      opened = listed.count('[', position) > listed.count(']', position) or position >= len(listed)
      reason = 'breaks off' if opened else 'holds something else than objects'
      raise Reject(f'the list of objects {reason}', _short(listed[position:]))
    names.append(_plain(entry[1]))
    prompts.append(_plain(entry[2]))
    position = entry.end()
  if not names:
    raise Reject('no moving object', _short(text))
  if not all(names) or not all(prompts):
    raise Reject('the list of objects holds something else than objects', _short(listed))
  if len(names) > max_objects:
    raise Reject('too many objects', f'{len(names)}, at most {max_objects}')
  lower = [name.lower() for name in names]
  twice = next((name for name in lower if lower.count(name) > 1), None)
  if twice:
    raise Reject('two objects with one name', twice)
  for prompt in (*names, *prompts):
    _check_length(prompt)
  return tuple(names), tuple(prompts)


def for_slot(caption: str) -> str:
  """A caption as it may stand in a template: one line, no brackets that look like an answer."""
  line = ' '.join(caption.split())
  return line.translate(str.maketrans('[]{}', '()()'))


def _partition(text: str, mark: str) -> tuple[str, str, str]:
  """Like str.partition, whatever the case."""
  place = text.lower().find(mark.lower())
  if place < 0:
    return text, '', ''
  return text[:place], mark, text[place + len(mark) :]


def _plain(text: str) -> str:
  """Without quotation marks around it, emphasis, and double spaces."""
  return ' '.join(text.replace('*', ' ').split()).strip(_QUOTES).strip()


def _check_length(prompt: str) -> None:
  if len(prompt.split()) > MAX_WORDS:
    raise Reject('a prompt of the language model is too long', f'{len(prompt.split())} words')


def _matched(pattern: re.Pattern[str], text: str, position: int) -> str:
  found = pattern.match(text, position)
  return found[0] if found else ''


def _short(text: str) -> str:
  line = ' '.join(text.split())
  return f'"{line[:80]}..."' if len(line) > 80 else f'"{line}"'
