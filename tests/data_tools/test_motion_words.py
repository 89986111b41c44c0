"""Texts of mirrored and reversed clips."""

import pytest

from data_tools.motion_words import mirrored, reversed_in_time
from ttm_jax.scenes.captions import PHRASES, motion_of


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('Left cup, RIGHT cup, left-hand cup.', 'Right cup, LEFT cup, right-hand cup.'),
    ('The leftmost dog moves rightwards.', 'The rightmost dog moves leftwards.'),
    ('It spins clockwise, then anti-clockwise.', 'It spins counterclockwise, then clockwise.'),
    ('turns right now at a right angle', 'turns right now at a right angle'),
    ('a brightly lit cleft', 'a brightly lit cleft'),
    ('A star goes left over it.', 'A star goes right over it.'),
  ],
)
def test_left_and_right_are_exchanged(text, wanted):
  assert mirrored(text) == wanted


@pytest.mark.parametrize(
  'text', ['He left the room.', 'a man who left', 'it runs right behind the car', 'left alone']
)
def test_words_that_may_be_no_side_are_refused(text):
  assert mirrored(text) is None


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('Slowly Rises.', 'Slowly Falls.'),
    ('The door OPENS.', 'The door CLOSES.'),
    ('It moves to the left and grows.', 'It moves to the right and shrinks.'),
    ('It drifts left, from right to left.', 'It drifts right, from left to right.'),
    ('The ball rolls into the box.', 'The ball rolls out of the box.'),
    ('A car approaches the house.', 'A car recedes from the house.'),
    ('A car recedes from the house.', 'A car approaches the house.'),
    ('The boat approaches.', 'The boat recedes.'),
    ('A bird enters.', 'A bird leaves.'),
    ('It moves toward the camera.', 'It moves away from the camera.'),
    ('It moves away from the camera.', 'It moves toward the camera.'),
    ('It hops up and down.', 'It hops up and down.'),
    ('It stands up.', 'It sits down.'),
    ('It turns anti-clockwise.', 'It turns clockwise.'),
  ],
)
def test_motions_get_their_opposite(text, wanted):
  assert reversed_in_time(['A text.', text]) == (['A text.', wanted], '')


@pytest.mark.parametrize(
  ('caption', 'motion', 'reason'),
  [
    ('', 'The man walks.', '"walks" has no opposite'),
    ('A dog runs.', 'The dog moves up.', '"runs" has no opposite'),
    ('', 'It rises, then stays.', '"then" is an order in time'),
    ('', 'The left cup rises.', '"left" is a place'),
    ('', 'It moves to the left of the tree.', '"left" is a place'),
    ('', 'The cup in the middle rises.', '"middle" is a place'),
    ('It rises.', 'The woman smiles.', 'no known motion word'),
    ('A small ball.', 'The ball grows.', '"small" changes with the size'),
  ],
)
def test_why_a_clip_is_not_reversed(caption, motion, reason):
  assert reversed_in_time([caption, motion]) == ([], reason)


OPPOSITE = {'left': 'right', 'up': 'down', 'grow': 'shrink'}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}


@pytest.mark.parametrize('motion', PHRASES)
def test_all_phrases_of_scenes(motion):
  for phrase in PHRASES[motion]:
    text = f'A star {phrase.format("ring")} over a plain sage background.'
    texts, reason = reversed_in_time(['', text])
    if motion == 'follow':
      assert not texts and reason
    else:
      assert motion_of(texts[1]) == OPPOSITE.get(motion, motion), (text, reason)
    sides = {'left': 'right', 'right': 'left'}
    assert motion_of(mirrored(text)) == sides.get(motion, motion)
