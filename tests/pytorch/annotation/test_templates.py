"""The prompt templates of the language model: their rules, and their examples as answers."""

import re

import pytest

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation import answers
from ttm_jax.pytorch.annotation.language_model import MOTION, OBJECTS, read_template

DIRECTIONS = re.compile(r'\b(?:left|right|up|down|over|from|into|past|forward|away)\b')


def examples(template):
  """Return caption and answer of each example of a template."""
  parts = read_template(template).split('Caption: ')[1:-1]
  return [part.strip().split('\n', 1) for part in parts]


def test_the_motion_template_keeps_directions():
  rules = read_template(MOTION).split('Caption: ')[0]
  kept = next(line for line in rules.splitlines() if 'direction' in line and line.startswith('- '))
  assert kept.startswith('- Keep') and {'left', 'right', 'up', 'down'} <= set(
    re.findall(r'\w+', kept)
  )
  for caption, answer in examples(MOTION):
    said = answers.parse_motion(answer)
    assert DIRECTIONS.search(said), said
    # No appearance, and no direction that the caption does not have.
    assert set(DIRECTIONS.findall(said)) <= set(DIRECTIONS.findall(caption))
    assert not re.search(r'\b(?:gray|red|old|blue|wet|white|small|calm|back)\b', said), said


def test_the_objects_template_lists_what_keeps_still():
  listed = [(caption, *answers.parse_objects(answer, 8)) for caption, answer in examples(OBJECTS)]
  (turtles,) = [names for caption, names, _ in listed if 'turtles' in caption]
  assert turtles == ('left turtle', 'middle turtle', 'right turtle')
  assert sum('still' in said for _, _, every in listed for said in every) == 3
  assert not any('poplar' in name for _, names, _ in listed for name in names)


def test_templates_need_their_slot(tmp_path):
  (tmp_path / 't.txt').write_text('Caption:')
  with pytest.raises(
    InputError, match=r't\.txt: must contain \{caption\} once, but contains it 0 times'
  ):
    read_template(tmp_path / 't.txt')
  with pytest.raises(InputError, match='none: cannot be read'):
    read_template(tmp_path / 'none')


def test_examples_of_our_templates_are_answers_themselves():
  text = read_template(OBJECTS)
  parts = text.split('Caption: ')[1:-1]
  assert len(parts) == 6
  assert sum(len(answers.parse_objects(example, 8)[0]) for example in parts) == 13
  text = read_template(MOTION)
  parts = text.split('Caption: ')[1:-1]
  assert len(parts) == 3 and all(answers.parse_motion(example) for example in parts)
