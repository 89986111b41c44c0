"""Texts of a clip that is mirrored, or played backwards.

Both follow fixed lists of English words. What a list does not settle is refused: a clip is then not
mirrored or not reversed, since a wrong text is worse than a missing clip.

A mirrored text has left and right exchanged. A reversed text has each motion word replaced by its
opposite: "rises" by "falls", "to the left" by "to the right", "enters" by "leaves". Motions that
look the same backwards, such as "bounces", stay. Refused are motions without an opposite ("walks"),
places in the first frame ("the left cup"), and orders in time ("then").
"""

import re
from collections.abc import Sequence

_SIDES = (
  ('left', 'right'),
  ('leftmost', 'rightmost'),
  ('leftward', 'rightward'),
  ('leftwards', 'rightwards'),
  ('clockwise', 'counterclockwise'),
)
# Neither a side nor a direction.
_NO_SIDE = 'right (?:angles?|now|away|here|there|after|before)|all right|upright'
# A side, or an adverb or a verb.
_UNCLEAR = (
  r'(?:left|right) (?:behind|beside|next to|above|below|in front|alone)'
  r'|left (?:the|an?|his|her|its|their)'
  r'|(?:who|that|which|has|have|had|is|are|was|were|he|she|it|they) left'
)

# What is said instead when a clip is played backwards. Phrases stand before their words.
_OPPOSITES = (
  *(('speed up', 'slow down'), ('speeds up', 'slows down'), ('speeding up', 'slowing down')),
  *(('stands up', 'sits down'), ('standing up', 'sitting down')),
  *(('picks up', 'puts down'), ('picking up', 'putting down')),
  *(('turns on', 'turns off'), ('turning on', 'turning off')),
  *(('zooms in', 'zooms out'), ('zooming in', 'zooming out')),
  *(('toward', 'away from'), ('towards', 'away from'), ('closer to', 'away from')),
  *(('closer', 'away'), ('into', 'out of')),
  *(('up', 'down'), ('upward', 'downward'), ('upwards', 'downwards')),
  *(('forward', 'backward'), ('forwards', 'backwards')),
  *(('leftward', 'rightward'), ('leftwards', 'rightwards'), ('clockwise', 'counterclockwise')),
  *(('rise', 'fall'), ('rises', 'falls'), ('rising', 'falling'), ('rose', 'fell')),
  *(('grow', 'shrink'), ('grows', 'shrinks'), ('growing', 'shrinking'), ('grew', 'shrank')),
  *(('bigger', 'smaller'), ('larger', 'smaller')),
  *(('enter', 'leave'), ('enters', 'leaves'), ('entering', 'leaving')),
  *(('approach', 'recede'), ('approaches', 'recedes'), ('approaching', 'receding')),
  *(('opens', 'closes'), ('opening', 'closing'), ('opened', 'closed')),
  *(('appear', 'disappear'), ('appears', 'disappears'), ('appearing', 'disappearing')),
  *(('lift', 'lower'), ('lifts', 'lowers'), ('lifting', 'lowering'), ('lifted', 'lowered')),
  *(('raises', 'lowers'), ('raising', 'lowering'), ('raised', 'lowered')),
  *(('ascends', 'descends'), ('ascending', 'descending')),
  *(('expands', 'contracts'), ('expanding', 'contracting')),
  *(('inflates', 'deflates'), ('inflating', 'deflating')),
  *(('accelerates', 'decelerates'), ('accelerating', 'decelerating')),
  *(('folds', 'unfolds'), ('folding', 'unfolding'), ('covers', 'uncovers')),
)
_GROWTH = {'grow', 'grows', 'growing', 'grew', 'shrink', 'shrinks', 'shrinking', 'shrank'}
_GROWTH |= {'bigger', 'larger', 'smaller', 'expands', 'contracts', 'inflates', 'deflates'}
_SIZES = {'small', 'large', 'big', 'little', 'tiny', 'huge'}

# These look the same backwards, as do the phrases.
_SAME_PHRASES = r'up and down|down and up|back and forth|round and round|upside down'
_SAME_VERBS = (
  'balance bob bounce circle come dance drift flicker float flutter go hold hop hover juggle keep'
  ' lie loop move orbit oscillate pulse remain rest rock roll rotate shake shift shuffle slide spin'
  ' stand stay sway swing tremble turn twirl twist vibrate wave wobble'
)
_SAME_MORE = 'lying swung spun held kept stood came went gone still'
# These do not, and have no opposite.
_ONE_WAY = (
  'bite blow boil break build burn carry catch charge chase chew chop climb collide collapse cook'
  ' cough crash crawl cross cry cut dig dive drag draw drink drip drive drop eat erupt explode'
  ' fight fire fly follow gallop give grab hit hug hunt ignite jog jump kick kiss knit land laugh'
  ' launch lead leak leap march melt paint pass place pour pull punch push put race reach release'
  ' reveal ride run sail say scatter sew shatter shoot sing sink skate ski slip smash sneeze speak'
  ' spill splash spray spread sprint stretch strike stumble surf swallow sweep swim take talk'
  ' throw toss touch travel trip trot type walk wash wipe write yawn'
)
_ONE_WAY_MORE = (
  'ate blew blown bitten broke broken built burnt caught chosen dove drank drawn drew driven drove'
  ' drunk dug eaten fallen flew flown fought gave given grown led open close ran ridden risen rode'
  ' sang sank shot shrunk slid spoke spoken struck stuck sung sunk swam swept swum taken threw'
  ' thrown took wrote written'
)
_ORDER = 'then until before after afterwards first finally last once later eventually'
_PLACES = 'leftmost rightmost middle center centre front top bottom upper lower behind above below'

_WORD = r"[^\W\d_]+(?:'[^\W\d_]+)?"
# What may stand between "to the left" and the rest of a sentence.
_AFTER_SIDE = r'(?= (?:and|over|in|on|at|across|along|through|while|with|as|again)\b| ?[^\s\w]| *$)'


def _forms(verbs: str) -> set[str]:
  """Return the regular forms of verbs, and some that do not exist."""
  found = set()
  for verb in verbs.split():
    stem = verb[:-1] if verb.endswith(('e', 'y')) else verb
    doubled = verb + verb[-1]
    found |= {verb, f'{verb}s', f'{verb}es', f'{stem}ies', f'{stem}ied'}
    found |= {f'{base}{end}' for base in (verb, stem, doubled) for end in ('ing', 'ed')}
  return found


_SAME = _forms(_SAME_VERBS) | {*_SAME_MORE.split()}
_NO_OPPOSITE = _forms(_ONE_WAY) | {*_ONE_WAY_MORE.split()}
_AGAINST = {a: b for pair in reversed(_OPPOSITES) for a, b in (pair, pair[::-1])}
_MIRRORED = {a: b for pair in _SIDES for a, b in (pair, pair[::-1])}
_CLOCK = r'(?:counter|anti)-?clockwise'
_TO_SIDE = rf'(?P<to>(?:to|towards?) the )(?P<side>left|right){_AFTER_SIDE}'
_SIDE_TO_SIDE = r'from (?P<one>left|right) to (?:the )?(?:left|right)'


def mirrored(text: str) -> str | None:
  """Return a text with left and right exchanged, case kept.

  Args:
    text: of a clip.

  Returns:
    The text of the clip mirrored about its vertical axis; None if a word may or may not be a side,
    as in "he left the room".
  """
  if re.search(rf'\b(?:{_UNCLEAR})\b', text, re.IGNORECASE):
    return None
  words = '|'.join(sorted(_MIRRORED, key=len, reverse=True))
  pattern = re.compile(rf'\b(?:(?P<kept>{_NO_SIDE})|{_CLOCK}|{words})\b', re.IGNORECASE)

  def other(match: re.Match) -> str:
    if match['kept']:
      return match[0]
    return _like(match[0], _MIRRORED.get(match[0].lower(), 'clockwise'))

  return pattern.sub(other, text)


def reversed_in_time(texts: Sequence[str]) -> tuple[list[str], str]:
  """Return the texts of a clip that is played backwards.

  Args:
    texts: all texts of the clip; the second is the motion prompt.

  Returns:
    The texts with motion words replaced by their opposites, case kept, and an empty string; or an
    empty list, and the reason why the clip has no text backwards.
  """
  lowered = [_words(text) for text in texts]
  every = {word for words in lowered for word in words}
  changed = [_reversed(text) for text in texts]
  for _, reason in changed:
    if reason:
      return [], reason
  known = {*_SAME, *(word for phrase in _AGAINST for word in phrase.split())}
  if not known & {*lowered[1]} - {'from', 'of', 'in', 'on', 'off'}:
    return [], 'no known motion word'
  if every & _GROWTH and (sized := sorted(every & _SIZES)):
    return [], f'"{sized[0]}" changes with the size'
  return [text for text, _ in changed], ''


def _reversed(text: str) -> tuple[str, str]:
  """Return one reversed text and an empty string, or why it cannot be reversed."""
  phrases = '|'.join(sorted(_AGAINST, key=len, reverse=True))
  moving = '|'.join(sorted(_SAME, key=len, reverse=True))
  pattern = re.compile(
    rf'\b(?:(?P<same>{_SAME_PHRASES})|(?P<across>{_SIDE_TO_SIDE})|{_TO_SIDE}'
    rf'|(?P<verb>(?:{moving}) )(?P<way>left|right){_AFTER_SIDE}'
    rf'|recede(?P<ending>s?) from|(?P<near>approach(?:es)?)(?= (?:the|an?|its|his|her|their)\b)'
    rf'|{_CLOCK}|(?P<known>{phrases})|(?P<word>{_WORD}))(?!\w)',
    re.IGNORECASE,
  )
  problems: list[str] = []

  def other(match: re.Match) -> str:
    word = match[0].lower()
    if match['same']:
      return match[0]
    if match['across']:
      return mirrored(match[0]) or match[0]
    if match['to'] or match['verb']:
      side = match['side'] or match['way']
      return (match['to'] or match['verb']) + _like(side, _MIRRORED[side.lower()])
    if match['near']:
      return _like(match[0], 'recedes from' if word.endswith('s') else 'recede from')
    if match['ending'] is not None:
      return _like(match[0], 'approaches' if match['ending'] else 'approach')
    if match['known']:
      return _like(match[0], _AGAINST[word])
    if match['word'] is None:
      return _like(match[0], 'clockwise')
    if word in ('left', 'right') or word in _PLACES.split():
      problems.append(f'"{word}" is a place')
    elif word in _ORDER.split():
      problems.append(f'"{word}" is an order in time')
    elif word in _NO_OPPOSITE:
      problems.append(f'"{word}" has no opposite')
    return match[0]

  changed = pattern.sub(other, text)
  return (changed, '') if not problems else ('', problems[0])


def _words(text: str) -> list[str]:
  return re.findall(_WORD, text.lower())


def _like(model: str, word: str) -> str:
  """Return a word in the case of another: lower, Capitalized or UPPER."""
  if model.isupper() and len(model) > 1:
    return word.upper()
  return word[0].upper() + word[1:] if model[0].isupper() else word
