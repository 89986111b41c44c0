"""Votes of a human study: majority, ties, intervals, and files that do not belong."""

import json

import numpy as np
import pytest

from ttm_jax.errors import InputError
from ttm_jax.metrics.votes import QUESTIONS, Pair, Study, count, read_study, read_votes

STUDY = Study(
  'abc',
  'ours',
  'theirs',
  tuple(Pair(f'p{i}', f'clip {i}', 'left' if i % 2 else 'right') for i in range(6)),
)


def save(path, study, rater, answers):
  path.write_text(json.dumps({'study': study, 'rater': rater, 'name': '', 'answers': answers}))
  return path


def answer(pair, prefers_a):
  """Return the side that prefers A, or the other one."""
  return pair.a if prefers_a else {'left': 'right', 'right': 'left'}[pair.a]


def given(choices, question='motion'):
  """Return answers to one question: pair index -> whether A is preferred."""
  return {STUDY.pairs[i].id: {question: answer(STUDY.pairs[i], a)} for i, a in choices.items()}


def refusal(call, *args):
  with pytest.raises(InputError) as caught:
    call(*args)
  return str(caught.value)


def test_the_majority_of_raters_decides_a_pair(tmp_path):
  votes = [
    # Pair 0: 2 of 3 for A. Pair 1: 1 of 3. Pair 2: a tie. Pair 3: A alone. The others: no vote.
    {0: True, 1: False, 2: True, 3: True},
    {0: True, 1: False, 2: False},
    {0: False, 1: True},
  ]
  files = [save(tmp_path / f'{i}', 'abc', f'r{i}', given(v)) for i, v in enumerate(votes)]
  found = count(STUDY, [read_votes(file, STUDY) for file in files], draws=500)
  motion = found['motion']
  assert motion.percent.value == pytest.approx(100 * (1 + 0 + 0.5 + 1) / 4)
  assert motion.percent.low < 62.5 < motion.percent.high and not motion.decides
  assert (motion.pairs, motion.ties) == (4, 1)
  assert motion.agreement == pytest.approx(np.mean([2 / 3, 2 / 3, 1 / 2, 1]))
  assert found['text'].pairs == 0 and np.isnan(found['text'].percent.value)
  assert found['text'].as_dict()['value'] is None
  assert list(found) == list(QUESTIONS)


def test_a_clear_preference_decides(tmp_path):
  file = save(tmp_path / 'a', 'abc', 'r', given(dict.fromkeys(range(6), True), 'text'))
  text = count(STUDY, [read_votes(file, STUDY)], draws=100)['text']
  assert text.percent.value == text.percent.low == 100 and text.decides


def test_votes_of_another_study(tmp_path):
  file = save(tmp_path / 'a', 'xyz', 'r', given({0: True}))
  assert refusal(read_votes, file, STUDY) == (
    f"{file}: holds votes of study 'xyz', not of abc: leave it out, or give the folder of its study"
  )


@pytest.mark.parametrize(
  'answers',
  [
    {'p9': {'text': 'left'}},
    {'p1': {'taste': 'left'}},
    {'p1': {'text': 'both'}},
    {'p1': {'text': ['left']}},
    {'p1': 'left'},
    [],
  ],
)
def test_damaged_votes(tmp_path, answers):
  file = save(tmp_path / 'a', 'abc', 'r', answers)
  said = refusal(read_votes, file, STUDY)
  assert said.startswith(f'{file}: damaged (') and said.endswith('ask the rater for the file again')


def test_one_rater_votes_once(tmp_path):
  files = [save(tmp_path / n, 'abc', 'r', given({0: True})) for n in 'ab']
  votes = [read_votes(file, STUDY) for file in files]
  assert refusal(count, STUDY, votes, 10) == (
    f'{files[0]} and {files[1]} are of one rater: give only the newer one'
  )
  empty = read_votes(save(tmp_path / 'c', 'abc', 's', {}), STUDY)
  assert refusal(count, STUDY, [empty], 10).startswith('the files hold no answers')


def test_the_record_of_a_study(tmp_path):
  (tmp_path / 'study.json').write_text(json.dumps(STUDY.as_dict()))
  assert read_study(tmp_path) == STUDY
  assert 'missing; give the folder that --pairs wrote' in refusal(read_study, tmp_path / 'no')
  (tmp_path / 'study.json').write_text('{"study": "abc", "a": "x", "b": "y", "pairs": [{}]}')
  assert refusal(read_study, tmp_path).startswith(f'{tmp_path}/study.json: damaged (')
