"""Count the votes of a human study: which of two systems raters prefer, with intervals.

The protocol is that of the paper (section 4.1): raters answer three questions for each pair of
videos, and the majority of its raters decides a pair. A number is the percentage of pairs that
prefer system A; a tie counts half. The bootstrap draws pairs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.json_file import read_object
from ttm_jax.metrics.base import mean_of_rows
from ttm_jax.metrics.intervals import Interval, bootstrap

RECORD = 'study.json'
SIDES = ('left', 'right')
QUESTIONS = {
  'text': 'Which video better matches the caption?',
  'motion': 'Which video has the best overall motion consistency?',
  'quality': 'Aesthetically, which video is better?',
}


@dataclasses.dataclass(frozen=True)
class Pair:
  """A pair of videos.

  Attributes:
    id: its name on the page.
    key: the clip.
    a: the side of system A, 'left' or 'right'.
  """

  id: str
  key: str
  a: str


@dataclasses.dataclass(frozen=True)
class Study:
  """What the page of a study hides.

  Attributes:
    id: the study.
    a, b: the systems.
    pairs: the pairs, in the order of the page.
  """

  id: str
  a: str
  b: str
  pairs: tuple[Pair, ...]

  def as_dict(self) -> dict[str, Any]:
    """Return the record as JSON values."""
    return {'study': self.id, **{k: v for k, v in dataclasses.asdict(self).items() if k != 'id'}}


@dataclasses.dataclass(frozen=True)
class Votes:
  """The answers of one rater.

  Attributes:
    file: where they are from.
    rater: a random number of the rater's browser.
    prefers_a: by pair and question, whether the rater prefers A.
  """

  file: Path
  rater: str
  prefers_a: Mapping[tuple[str, str], bool]


@dataclasses.dataclass(frozen=True)
class Result:
  """The result of one question.

  Attributes:
    percent: percentage of pairs that prefer A, with its interval.
    pairs: pairs with a vote.
    ties: pairs with as many votes for A as for B.
    agreement: mean fraction of the raters of a pair who are with its majority, 0.5..1.
  """

  percent: Interval
  pairs: int
  ties: int
  agreement: float

  @property
  def decides(self) -> bool:
    """Whether 50 % is outside of the interval."""
    return self.percent.low > 50 or self.percent.high < 50

  def as_dict(self) -> dict[str, Any]:
    """Return the result as JSON values."""
    values = dataclasses.asdict(self.percent)
    numbers = {name: x if math.isfinite(x) else None for name, x in values.items()}
    agreement = self.agreement if math.isfinite(self.agreement) else None
    return {**numbers, 'pairs': self.pairs, 'ties': self.ties, 'agreement': agreement}


def read_study(folder: Path) -> Study:
  """Read the record of a study.

  Raises:
    InputError: it is missing or damaged.
  """
  values = read_object(folder / RECORD, 'give the folder that --pairs wrote')
  try:
    pairs = tuple(Pair(_text(p['id']), _text(p['key']), p['a']) for p in values['pairs'])
    if not pairs or any(pair.a not in SIDES for pair in pairs):
      raise ValueError('a pair has no side')
    return Study(_text(values['study']), _text(values['a']), _text(values['b']), pairs)
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(f'{folder / RECORD}: damaged ({error}); take it from a copy') from error


def read_votes(file: Path, study: Study) -> Votes:
  """Read the file that a rater has downloaded.

  Raises:
    InputError: it is damaged, of another study, or has answers to questions of no pair.
  """
  values = read_object(file, 'ask the rater for the file again')
  if values.get('study') != study.id:
    raise InputError(
      f'{file}: holds votes of study {values.get("study")!r:.50}, not of {study.id}: leave it out,'
      ' or give the folder of its study'
    )
  sides = {pair.id: pair.a for pair in study.pairs}
  found = {}
  try:
    rater = _text(values['rater'])
    for pair, answers in values['answers'].items():
      for question, side in answers.items():
        if pair not in sides or question not in QUESTIONS or side not in SIDES:
          raise ValueError(f'{pair!r:.50} {question!r:.50} {side!r:.50} is no answer')
        found[pair, question] = side == sides[pair]
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise InputError(f'{file}: damaged ({error}); ask the rater for the file again') from error
  return Votes(file, rater, found)


def count(study: Study, raters: Sequence[Votes], draws: int) -> dict[str, Result]:
  """Count the votes of raters.

  Args:
    study: the record.
    raters: their votes.
    draws: draws of the bootstrap.

  Returns:
    The result of each question.

  Raises:
    InputError: two files are of one rater, or there is no vote.
  """
  seen: dict[str, Path] = {}
  for votes in raters:
    other = seen.setdefault(votes.rater, votes.file)
    if other != votes.file:
      raise InputError(f'{other} and {votes.file} are of one rater: give only the newer one')
  if not any(votes.prefers_a for votes in raters):
    raise InputError('the files hold no answers: ask the raters to answer and download again')
  return {question: _result(study, raters, question, draws) for question in QUESTIONS}


def _result(study: Study, raters: Sequence[Votes], question: str, draws: int) -> Result:
  shares = np.full(len(study.pairs), np.nan)  # Of raters who prefer A.
  for number, pair in enumerate(study.pairs):
    given = [v.prefers_a[pair.id, question] for v in raters if (pair.id, question) in v.prefers_a]
    if given:
      shares[number] = np.mean(given)
  rows = np.where(np.isnan(shares), np.nan, 50 + 50 * np.sign(shares - 0.5))
  known = shares[~np.isnan(shares)]
  return Result(
    bootstrap(rows[None, :, None], mean_of_rows, draws),
    len(known),
    int((known == 0.5).sum()),
    mean_of_rows(np.maximum(known, 1 - known)[:, None]),
  )


def _text(value: Any) -> str:
  if not isinstance(value, str):
    raise TypeError(f'{value!r:.50} is not a text')
  return value
