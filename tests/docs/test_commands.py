"""The commands of README and documentation: their flags exist, and they run."""

import functools
import re
from pathlib import Path

import pytest

from docs.generate import commands, settings
from tests.helpers import documented, tiny

ROOT = Path(__file__).parents[2]
BLOCKS = {path.name: list(documented.blocks(path)) for path in documented.PAGES}
# Of other programs, of Python itself, of the tests, or without flags.
FOREIGN = {
  *('pytest', 'pip', 'venv', 'mkdocs'),
  *('tests.faults.random_kills', 'docs.generate.execute'),
}
# Pages whose blocks run within seconds; `make test-slow` runs the others.
QUICK = {'README.md'}


def test_how_blocks_are_read(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text(
    '# Title\n\n    python -m a.b --c \\\n        d\n\n```text\nno\n```\n\n1. Item:\n\n'
    '   <!-- skip: needs a TPU -->\n   ```bash\n   X=1\n   python -m c $X  # Why.\n   ```\n'
  )
  one, two = documented.blocks(page)
  assert (one.line, one.skip, [*documented.invocations(one.text)]) == (
    3,
    '',
    [['python', '-m', 'a.b', '--c', 'd']],
  )
  assert (two.skip, [*documented.invocations(two.text)]) == (
    'needs a TPU',
    [['python', '-m', 'c', '1']],
  )


def test_how_arguments_are_joined():
  words = ['place', '--a', '1', '--b=2', '--c', '--d', 'x']
  assert documented.joined(words) == ['place', '--a=1', '--b=2', '--c', '--d=x']


def test_there_are_blocks():
  assert len(BLOCKS) > 15 and sum(map(len, BLOCKS.values())) > 60
  ran = [block for blocks in BLOCKS.values() for block in blocks if not block.skip]
  assert len(ran) > 30


@functools.cache
def flags_of(module: str) -> set[str]:
  """Return the spellings of all options of a command."""
  of_all = commands.read(module).flags.values()
  return {name for flags in of_all for flag in flags for name in flag.names}


@functools.cache
def keys_of(name: str) -> set[str]:
  file, _, form = name.partition(':')
  config = tiny.shipped(f'{Path(file).stem}:{form}' if form else Path(file).stem)
  return {key for key, _ in settings.flat(config)}


@pytest.mark.parametrize('page', [name for name, found in BLOCKS.items() if found])
def test_modules_and_flags_exist(page):
  for block in BLOCKS[page]:
    for words in documented.invocations(block.text) if block.language == 'bash' else ():
      found = documented.module_of(words)
      if found is None or found[0] in FOREIGN:
        continue
      module, arguments = found
      if module == 'launch.local':
        module, arguments = arguments[arguments.index('--') + 3], arguments[-1:]
      where = f'{page}:{block.line}'
      assert module in commands.modules(), f'{where}: there is no {module}'
      if '--' in arguments:
        arguments = arguments[: arguments.index('--')]
      names = [x.partition('=')[0] for x in arguments if x.startswith('--')]
      own = [name for name in names if not name.startswith('--config.')]
      assert [name for name in own if name not in flags_of(module)] == [], where
      config = next((x[9:] for x in documented.joined(arguments) if x.startswith('--config=')), '')
      if config and Path(config.partition(':')[0]).stem in tiny.SHIPPED:
        keys = {name.removeprefix('--config.') for name in names if name.startswith('--config.')}
        assert keys - keys_of(config) == set(), where


@pytest.mark.parametrize(
  'page',
  [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, found in BLOCKS.items()
    if any(not block.skip for block in found)
  ],
)
def test_commands_run(page, tmp_path, makers):
  # A name that is part of another comes last, so that the more specific thing is made first.
  ordered = dict(sorted(makers.items(), key=lambda item: -len(item[0])))
  folder = documented.Folder(tmp_path, ordered)
  for block in BLOCKS[page]:
    if block.skip:
      print(f'{page}:{block.line} skipped: {block.skip}')
    else:
      folder.run(block)


def test_every_skip_has_a_reason():
  for blocks in BLOCKS.values():
    for block in blocks:
      assert not block.skip or re.search(r'\w+ \w+', block.skip), f'{block.page}:{block.line}'
