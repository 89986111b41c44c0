"""Two commands at the same time: what is shown, and what happens when one fails."""

import time

import pytest

from ttm_jax.commands import Beside, run_together
from ttm_jax.errors import InputError

FAILS = 'json.tool', 'missing.json'
WAITS = 'http.server', '0', '--bind', '127.0.0.1'  # Until it is stopped.


def test_the_first_has_the_terminal_and_the_second_a_file(tmp_path, capfd):
  beside = Beside('Name the months', ['calendar', '2020'], tmp_path / 'months.log')
  seconds = run_together('Name the machine', ['platform', '--terse'], beside)
  said = capfd.readouterr().out
  assert 'Name the machine\n  python -m platform --terse' in said
  assert f'Name the months, at the same time: its output is in {beside.log}' in said
  assert 'October' in beside.log.read_text() and 'October' not in said
  assert all(0 < spent < 60 for spent in seconds)


@pytest.mark.parametrize('first', [True, False])
def test_one_that_fails_stops_the_other(first, tmp_path):
  commands = (FAILS, WAITS) if first else (WAITS, FAILS)
  beside = Beside('second', commands[1], tmp_path / 'second.log')
  begin = time.monotonic()
  with pytest.raises(InputError) as raised:
    run_together('first', commands[0], beside)
  assert time.monotonic() - begin < 60
  place = 'see above' if first else f'see {beside.log}'
  assert str(raised.value) == (
    f'step "{"first" if first else "second"}" failed with exit code 2; {place}'
  )
