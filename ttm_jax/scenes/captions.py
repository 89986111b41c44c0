"""Captions, motion prompts and object prompts of synthetic scenes.

The texts follow section 3.1 of the paper. The caption describes everything. The motion prompt is
the only text of stage 1: it states what moves, how, and in which direction, but no color, position,
size or background. Each object prompt repeats what the caption states about one object.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from ttm_jax.scenes.shapes import BACKGROUND_COLORS, BACKGROUNDS, COLORS, SHAPES

# `{}` is replaced by the name of another object. No phrase may be part of a phrase of another
# motion; `motion_of` relies on it.
PHRASES = {
  'left': ('moves to the left', 'slides to the left', 'goes left'),
  'right': ('moves to the right', 'slides to the right', 'goes right'),
  'up': ('moves up', 'goes up', 'rises'),
  'down': ('moves down', 'goes down', 'falls'),
  'grow': ('grows', 'gets bigger'),
  'shrink': ('shrinks', 'gets smaller'),
  'spin': ('spins', 'rotates'),
  'bounce': ('bounces', 'hops up and down'),
  'circle': ('goes round and round', 'moves in a loop'),
  'follow': ('follows the {}', 'moves after the {}'),
  'stay': ('stays still', 'does not move'),
}
MOTIONS = tuple(PHRASES)
SIZES = ('small', 'large')


@dataclasses.dataclass(frozen=True)
class SceneDescription:
  """The description of one object of a scene.

  Attributes:
    noun: A key of scenes.shapes.SHAPES; unique in its scene.
    color: A key of scenes.shapes.COLORS; unique in its scene.
    size: One of SIZES, by the radius in frame 0; empty for medium sizes.
    motion: One of MOTIONS.
    phrase: One of PHRASES[motion].
    leader: Index, in the scene, of the object that it follows; None unless the motion is 'follow'.
  """

  noun: str
  color: str
  size: str
  motion: str
  phrase: str
  leader: int | None


def name_of(thing: SceneDescription) -> str:
  """Return the name of an object, such as 'red circle'."""
  return f'{thing.color} {thing.noun}'


def prompt_of(things: Sequence[SceneDescription], index: int) -> str:
  """Return an object prompt, such as 'a small red circle that moves to the left'.

  Args:
    things: The objects of the scene.
    index: Index of the object to describe.
  """
  thing = things[index]
  return f'{_with_article(thing)} that {_said(things, index, name_of)}'


def motion_prompt(things: Sequence[SceneDescription]) -> str:
  """Return the motion prompt, such as 'The circle moves to the left and the star grows.'."""
  clauses = [
    f'the {thing.noun} {_said(things, i, lambda leader: leader.noun)}'
    for i, thing in enumerate(things)
  ]
  return _sentence(_listed(clauses))


def caption(things: Sequence[SceneDescription], background_color: str, background: str) -> str:
  """Return the caption of a scene.

  Example: 'A red circle moves to the left and a small blue star grows over a striped sage
  background.'

  Args:
    things: The objects of the scene.
    background_color: A key of scenes.shapes.BACKGROUND_COLORS.
    background: A key of scenes.shapes.BACKGROUNDS.
  """
  clauses = [
    f'{_with_article(thing)} {_said(things, i, name_of)}' for i, thing in enumerate(things)
  ]
  return _sentence(f'{_listed(clauses)} over a {background} {background_color} background')


def _patterns() -> re.Pattern[str]:
  groups = (
    f'(?P<{motion}>' + '|'.join(p.removesuffix(' {}') for p in phrases) + ')'
    for motion, phrases in PHRASES.items()
  )
  return re.compile(rf'\b(?:{"|".join(groups)})\b')


_MOTION = _patterns()


def motion_of(prompt: str) -> str | None:
  """Return the motion that an object prompt mentions, one of MOTIONS, or None."""
  match = _MOTION.search(prompt.lower())
  return match.lastgroup if match else None


def vocabulary() -> set[str]:
  """Return all words, in lower case, that occur in captions and prompts of scenes."""
  phrases = ' '.join(phrase for phrases in PHRASES.values() for phrase in phrases)
  frame = 'a an the that and over background'
  names = [*COLORS, *SHAPES, *SIZES, *BACKGROUND_COLORS, *BACKGROUNDS]
  return set(re.findall('[a-z]+', f'{phrases} {frame}')) | set(names)


def _said(
  things: Sequence[SceneDescription], index: int, call: Callable[[SceneDescription], str]
) -> str:
  """Return an object's phrase, with its leader named by `call`."""
  thing = things[index]
  if thing.leader is None:
    return thing.phrase
  return thing.phrase.format(call(things[thing.leader]))


def _with_article(thing: SceneDescription) -> str:
  words = f'{thing.size} {name_of(thing)}'.strip()
  return f'{"an" if words[0] in "aeiou" else "a"} {words}'


def _listed(clauses: list[str]) -> str:
  return ' and '.join(filter(None, [', '.join(clauses[:-1]), clauses[-1]]))


def _sentence(text: str) -> str:
  return f'{text[0].upper()}{text[1:]}.'
