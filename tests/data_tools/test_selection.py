"""The choice of a benchmark from scores: a closed form, ties by id, and clear errors."""

import dataclasses
import random

import numpy as np
import pytest

from data_tools.selection import (
  CATEGORIES,
  MULTI,
  SINGLE,
  Candidate,
  combined,
  draw,
  fill_pool,
)
from ttm_jax.errors import InputError


def candidate(name, category='Animal', aesthetic=0.0, motion=0.0, objects=1):
  return Candidate(name, category, aesthetic, motion, objects)


def test_scores_are_mean_percentile_ranks():
  some = [
    candidate('a', aesthetic=1, motion=900),
    candidate('b', aesthetic=2, motion=2),
    candidate('c', aesthetic=2, motion=1),
    candidate('d', aesthetic=9, motion=3),
    candidate('e', aesthetic=4, motion=0),
  ]
  # Ranks of the aesthetic scores: 0, 1.5, 1.5, 4, 3; of motion: 4, 2, 1, 3, 0; of at most 4 each.
  np.testing.assert_allclose(combined(some), np.array([4, 3.5, 2.5, 7, 3]) / 8)
  assert combined(some[:1]).tolist() == [1.0] and combined([]).shape == (0,)


def test_the_pool_goes_round_the_categories_best_first():
  some = [candidate(f'animal{i}', 'Animal', aesthetic=i, motion=i) for i in range(4)]
  some += [candidate('food0', 'Food', -1, -1), candidate('plant0', 'Plant', 9, 9)]
  pool = fill_pool(some, 5)
  names = [c.candidate.id for c in pool]
  assert names == ['animal3', 'food0', 'plant0', 'animal2', 'animal1']
  assert [c.rank for c in pool] == [1, 1, 1, 2, 3] and [c.place for c in pool] == [1, 2, 3, 4, 5]
  assert pool[2].score == 1.0 and pool[1].score == 0.0


def test_ties_are_broken_by_id():
  some = [candidate(name) for name in 'dbca']
  assert [c.candidate.id for c in fill_pool(some, 3)] == ['a', 'b', 'c']
  assert fill_pool(some, 3) == fill_pool(some[::-1], 3)


def test_a_small_category_gives_what_it_has():
  some = [candidate(f'animal{i:02}', 'Animal') for i in range(20)]
  some += [candidate(f'food{i}', 'Food') for i in range(3)]
  pool = fill_pool(some, 15)
  counts = [c.candidate.category for c in pool]
  assert counts.count('Food') == 3 and counts.count('Animal') == 12


def test_the_draw_is_balanced_reproducible_and_independent_of_order():
  random.seed(0)
  some = [candidate(f'v{i:03}', CATEGORIES[i % 10], i, -i, i % 4) for i in range(200)]
  mixed = random.sample(some, len(some))
  pool = draw(fill_pool(some, 160), 30, seed=7)
  assert pool == draw(fill_pool(mixed, 160), 30, seed=7)
  other = draw(fill_pool(some, 160), 30, seed=8)
  assert [c.group for c in pool] != [c.group for c in other]
  for group, objects in ((SINGLE, {1}), (MULTI, {2, 3})):
    chosen = [c for c in pool if c.group == group]
    assert {c.candidate.objects for c in chosen} <= objects
    assert sorted(c.turn for c in chosen) == list(range(1, 31))
  assert all(not c.group for c in pool if c.candidate.objects == 0)


def test_a_video_keeps_its_turn_if_others_leave():
  some = [candidate(f'v{i:03}', objects=1 + i % 2) for i in range(100)]
  first = {c.candidate.id: c.turn for c in draw(fill_pool(some, 100), 10, 0) if c.turn}
  fewer = [c for c in some if c.id in first or c.id > 'v050']
  again = {c.candidate.id: c.turn for c in draw(fill_pool(fewer, len(fewer)), 10, 0) if c.turn}
  assert first == again


def test_reasons_are_words():
  some = [candidate('a', objects=1), candidate('b', objects=2), candidate('c', objects=0)]
  reasons = [c.reason for c in draw(fill_pool(some, 3), 1, 0)]
  assert reasons == [
    'number 1 of Animal, number 1 of the pool, drawn 1 of those with one object',
    'number 2 of Animal, number 2 of the pool, drawn 1 of those with several objects',
    'number 3 of Animal, number 3 of the pool, not drawn',
  ]


@pytest.mark.parametrize(
  'change, pool, each, said',
  [
    ({}, 11, 2, 'there are 10 usable videos, fewer than the 11 of --pool; score more videos'),
    ({}, 10, 6, 'the pool of 10 has 5 videos with one object, fewer than the 6 of --each'),
    ({'objects': 1}, 10, 2, 'the pool of 10 has 0 videos with several objects, fewer than the 2'),
    ({'id': 'a'}, 10, 2, '"a" has two records; remove one'),
  ],
)
def test_too_few_or_equal_ids_are_refused(change, pool, each, said):
  some = [candidate(f'v{i}', objects=1 + i % 2) for i in range(10)]
  some = [dataclasses.replace(c, **change) for c in some]
  with pytest.raises(InputError, match=said):
    draw(fill_pool(some, pool), each, 0)
