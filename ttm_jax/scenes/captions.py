"""How scenes are described: the words for motions, captions, motion prompts and object prompts.

After the paper, section 3.1: the caption says everything; the motion prompt says what moves, how,
and in which direction, since stage 1 reads no other text, but no color, place, size or background;
and each object prompt says of one object all that the caption says of it.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from ttm_jax.scenes.shapes import BACKGROUND_COLOURS, BACKGROUNDS, COLOURS, SHAPES

# `{}` stands for another object. No phrase may occur within one of another motion.
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
  """What is said of an object.

  Attributes:
    noun: a key of scene_shapes.SHAPES; unique in its scene.
    colour: a key of scene_shapes.COLOURS; unique in its scene.
    size: one of SIZES, by its radius in frame 0, or empty where it is middling.
    motion: one of MOTIONS.
    phrase: one of PHRASES[motion].
    leader: the place, among the objects of the scene, of the one it follows; None without 'follow'.
  """

  noun: str
  colour: str
  size: str
  motion: str
  phrase: str
  leader: int | None


def name_of(thing: SceneDescription) -> str:
  """'red circle'."""
  return f'{thing.colour} {thing.noun}'


def prompt_of(things: Sequence[SceneDescription], index: int) -> str:
  """'a small red circle that moves to the left'."""
  thing = things[index]
  return f'{_with_article(thing)} that {_said(things, index, name_of)}'


def motion_prompt(things: Sequence[SceneDescription]) -> str:
  """'The circle moves to the left and the star grows.'."""
  clauses = [
    f'the {thing.noun} {_said(things, i, lambda leader: leader.noun)}'
    for i, thing in enumerate(things)
  ]
  return _sentence(_listed(clauses))


def caption(things: Sequence[SceneDescription], background_colour: str, background: str) -> str:
  """'A red circle moves to the left and a small star grows over a striped sage background.'."""
  clauses = [
    f'{_with_article(thing)} {_said(things, i, name_of)}' for i, thing in enumerate(things)
  ]
  return _sentence(f'{_listed(clauses)} over a {background} {background_colour} background')


def _patterns() -> re.Pattern[str]:
  groups = (
    f'(?P<{motion}>' + '|'.join(p.removesuffix(' {}') for p in phrases) + ')'
    for motion, phrases in PHRASES.items()
  )
  return re.compile(rf'\b(?:{"|".join(groups)})\b')


_MOTION = _patterns()


def motion_of(prompt: str) -> str | None:
  """The motion, one of MOTIONS, of which an object prompt speaks; None if it speaks of none."""
  match = _MOTION.search(prompt.lower())
  return match.lastgroup if match else None


def vocabulary() -> set[str]:
  """All words, in lower case, that captions and prompts of scenes are made of."""
  phrases = ' '.join(phrase for phrases in PHRASES.values() for phrase in phrases)
  frame = 'a an the that and over background'
  names = [*COLOURS, *SHAPES, *SIZES, *BACKGROUND_COLOURS, *BACKGROUNDS]
  return set(re.findall('[a-z]+', f'{phrases} {frame}')) | set(names)


def _said(
  things: Sequence[SceneDescription], index: int, call: Callable[[SceneDescription], str]
) -> str:
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
