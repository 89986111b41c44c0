"""Read the command blocks of the documentation, and run them at the size of the tests.

A block runs in a folder of its page, after the blocks before it. What it reads and no block has
made is put there: small datasets, runs, images. A block that cannot run has a mark before it,

    <!-- skip: needs a TPU -->

Sizes, codecs and numbers of steps are replaced by those of the tests; all else is as it is written.
"""

import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from docs.generate import commands
from tests.helpers import cli, tiny

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
LANGUAGES = {'bash', 'python'}
LIMIT = 1800  # Seconds for a command; a busy machine compiles for minutes.
OUTPUTS = ('--out=', '--workdir=')

_FENCE = re.compile(r' *```(\w*)$')
_SKIP = re.compile(r' *<!-- skip: (.+) -->$')
_COMMAND = re.compile(r'(python|ttm-|launch/|pip|make|docker|hf|export|[A-Z_]+=)')


@dataclass(frozen=True)
class Block:
  """A command block.

  Attributes:
    page: name of the page.
    line: number of its first line.
    language: 'bash' or 'python'.
    text: the commands.
    skip: why it does not run; empty if it does.
  """

  page: str
  line: int
  language: str
  text: str
  skip: str


def blocks(path: Path) -> Iterator[Block]:
  """Yield the command blocks of a page, fenced or indented, in order."""
  lines = path.read_text().splitlines()
  skip, number = '', 0
  while number < len(lines):
    line = lines[number]
    number += 1
    if marked := _SKIP.match(line):
      skip = marked[1]
    elif opened := _FENCE.match(line):
      first = number
      while not _FENCE.match(lines[number]):
        number += 1
      text = '\n'.join(lines[first:number])
      number += 1
      if opened[1] in LANGUAGES:
        yield Block(path.name, first + 1, opened[1], _dedented(text), skip)
      skip = ''
    elif (
      line.startswith('    ') and _COMMAND.match(line.lstrip()) and not lines[number - 2].strip()
    ):
      first = number - 1
      while number < len(lines) and lines[number].startswith('    '):
        number += 1
      text = '\n'.join(lines[first:number])
      yield Block(path.name, first + 1, 'bash', _dedented(text), skip)
      skip = ''
    elif line.strip():
      skip = ''


def _dedented(text: str) -> str:
  width = min((len(x) - len(x.lstrip()) for x in text.splitlines() if x.strip()), default=0)
  return '\n'.join(line[width:] for line in text.splitlines())


def invocations(text: str, variables: dict[str, str] | None = None) -> Iterator[list[str]]:
  """Yield the words of each command of a shell block, with its variables filled in.

  Args:
    text: the block.
    variables: those of earlier blocks; receives those of this one.
  """
  variables = {} if variables is None else variables
  for line in text.replace('\\\n', ' ').splitlines():
    words = shlex.split(string.Template(line).safe_substitute(variables), comments=True)
    if words[:1] == ['export']:
      words = words[1:]
    while words and re.fullmatch(r'[A-Z_0-9]+=.*', words[0]):
      name, _, value = words.pop(0).partition('=')
      variables[name] = value
    if '>' in words:
      words = words[: words.index('>')]
    if words:
      yield words


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
  """Return the module that a command starts and its arguments; None for other programs."""
  if words[:2] == ['python', '-m']:
    return words[2], words[3:]
  by_script = {script: module for module, script in commands.scripts().items()}
  if words[0] in by_script:
    return by_script[words[0]], words[1:]
  return None


class Folder:
  """The folder in which the blocks of a page run."""

  def __init__(self, path: Path, makers: Mapping[str, Callable[[Path], None]]):
    """Make an empty folder.

    Args:
      path: of the folder.
      makers: what makes each thing that commands may read, by its name in the documentation.
    """
    self.path, self._makers = path, makers
    self._variables: dict[str, str] = {}
    (path / 'configs').symlink_to(ROOT / 'configs')

  def run(self, block: Block) -> None:
    """Run a block, and check that every command of it succeeds."""
    if block.language == 'python':
      self._provide(re.findall(r"'([^']*)'", block.text))
      self._succeed([sys.executable, '-c', block.text], self.path)
      return
    for words in invocations(block.text, self._variables):
      found = module_of(words)
      if found is not None:
        self._module(*found)
      elif words[0].startswith('launch/'):
        dry = [] if '--dry-run' in words else ['--dry-run']
        self._succeed([ROOT / words[0], *dry, *words[1:]], ROOT)
      else:
        raise AssertionError(f'{block.page}:{block.line} runs {words[0]}: mark it with a reason')

  def _module(self, module: str, arguments: list[str]) -> None:
    arguments = joined(self._expanded(arguments))
    written = [x for x in arguments if x.startswith(OUTPUTS)]
    for argument in written:
      self._remove(argument.partition('=')[2])
    self._provide([x for x in arguments if x not in written])
    small = shrunk(module, arguments)
    if module == 'launch.local':
      self._succeed([sys.executable, '-m', module, *small], self.path)
      return
    process = cli.start(module, *small, env={'ELSEWHERE': str(self.path)}, before=cli.elsewhere)
    ended = process.wait(LIMIT)
    assert ended.code == 0, f'{module} {shlex.join(small)}\n{ended.err}'

  def _expanded(self, arguments: list[str]) -> list[str]:
    """Return arguments with the files that patterns name, as a shell does."""
    self._provide([x for x in arguments if '*' in x])
    found: list[str] = []
    for argument in arguments:
      names = sorted(self.path.glob(argument)) if '*' in argument else []
      found += [str(name.relative_to(self.path)) for name in names] or [argument]
    return found

  def _remove(self, name: str) -> None:
    place = self.path / name
    if place.is_symlink() or place.is_file():
      place.unlink()
    elif place.exists():
      shutil.rmtree(place)

  def _provide(self, texts: list[str]) -> None:
    """Make what the texts name and does not exist yet."""
    for text in texts:
      for name in self._makers:
        if re.search(rf'(?<![\w/.-]){re.escape(name)}(?![\w.-])', text):
          place = self.path / name
          if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            self._makers[name](place)

  def _succeed(self, command: list, folder: Path) -> None:
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    ended = subprocess.run(
      [*map(str, command)], cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT
    )
    assert ended.returncode == 0, f'{shlex.join(map(str, command))}\n{ended.stdout}{ended.stderr}'


def joined(arguments: list[str]) -> list[str]:
  """Return arguments with each option and its value in one word, if it has one value."""
  found: list[str] = []
  for i, argument in enumerate(arguments):
    before = found[-1] if found else ''
    more = i + 1 < len(arguments) and not arguments[i + 1].startswith('--')
    two = before.startswith('--') and '=' not in before and not argument.startswith('--')
    if two and not (more and before in ('--pairs', '--votes')) and before != '--':
      found[-1] = f'{before}={argument}'
    else:
      found.append(argument)
  return found


def shrunk(module: str, arguments: list[str]) -> list[str]:
  """Return the arguments of a command, with sizes and steps as in the tests."""
  if module == 'launch.local':
    split = arguments.index('--') + 1
    inner = arguments[split:]
    return [*arguments[:split], sys.executable, '-m', inner[2], *shrunk(inner[2], inner[3:])]
  if module == 'data_tools.make_scenes':
    return [*arguments, *tiny.scenes_command(Path('x'))[2:], '--workers=0']
  if module == 'data_tools.import_folder':
    size = f'--frames={tiny.FRAMES}', f'--fps={tiny.FPS}', f'--size={tiny.SIDE}'
    return [*arguments, *size]
  if module in ('data_tools.prepare', 'data_tools.point_lists'):
    rest = [x for x in arguments if not x.startswith(('--clip=', '--fps='))]
    if '--kind=sav' in rest:
      rest.append('--exclude=none')  # By default, the list of the benchmark is downloaded.
    return [*rest, f'--clip={tiny.FRAMES}x{tiny.SIDE}x{tiny.SIDE}', f'--fps={tiny.FPS}']
  if module == 'data_tools.encode':
    preset = next((x[9:] for x in arguments if x.startswith('--preset=')), 'dit')
    rest = [x for x in arguments if not x.startswith('--text=')]
    return [*tiny.encode_command(Path('x'), Path('y'), f'--codec={tiny.CODECS[preset]}')[3:], *[
      x for x in rest if not x.startswith(('--codec=', '--words', '--max_objects'))]]  # fmt: skip
  if module == 'ttm_jax.demo':
    return [*arguments, '--quick']
  if module == 'ttm_jax.train':
    given = dict(x[2:].split('=', 1) for x in arguments if x.startswith('--') and '=' in x)
    file, colon, form = given['config'].partition(':')
    name = f'{Path(file).stem}{colon}{form}'
    flags = tiny.flags(tiny.shrunk(name), tiny.shipped(name))
    own = ('config.data.path', 'config.init_from', 'config.mesh')
    kept = {key for key in given if key.startswith(own)}
    without = kept | ({'config.mesh'} & {key.rpartition('.')[0] for key in kept})
    return [*arguments, *(x for x in flags if not x[2:].startswith(tuple(without)))]
  if module == 'ttm_jax.evaluate' and not any(x.startswith('--votes') for x in arguments):
    return [*arguments, '--draws=20'] if '--pairs' not in arguments else arguments
  return arguments
