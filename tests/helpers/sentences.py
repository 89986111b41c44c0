"""The one-line errors of commands."""

from tests.helpers import cli


def sentence(ended: cli.Ended) -> str:
  """Return the one line that a command printed before it exited."""
  assert ended.code == 2, ended.err
  (line,) = ended.err.splitlines()
  assert line.startswith('error: ')
  assert ended.out == ''
  return line.removeprefix('error: ')


def last_sentence(ended: cli.Ended) -> str:
  """Like `sentence`, for a run that had started and logged its steps."""
  assert ended.code == 2, ended.err
  *before, line = ended.err.splitlines()
  assert line.startswith('error: ')
  assert not [said for said in before if 'rror' in said or 'Traceback' in said], ended.err
  return line.removeprefix('error: ')
