"""A folder of compiled programs, by which a command starts fast from its second run on.

JAX keeps compiled programs if it is told where. Commands that compile call `keep_programs`. By
default the folder is in the user's cache directory, one for each kind of CPU: a program that was
compiled for one CPU may use instructions that another one lacks. The oldest programs go once the
folder exceeds `MAX_BYTES`. A folder that the user names is left to JAX's own settings.

A folder that cannot be used must not stop a command: it says so, once, and compiles.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttm_jax.errors import printable

Say = Callable[[str], None]

OFF = 'off'
HELP = (
  f"folder of compiled programs, or {OFF}; default: in the user's cache directory, or the"
  ' environment variable JAX_COMPILATION_CACHE_DIR'
)
MAX_BYTES = 4 << 30
# What JAX warns of.
_ERROR = re.compile(
  r"Error (?P<what>reading|writing) persistent compilation cache entry for '(?P<program>\w+)': "
  r'(?P<error>\w+): (?P<reason>.*)'
)
# Errors of reading that say nothing about the program.
_PASSING = ('Timeout', 'OSError', 'FileNotFoundError', 'PermissionError')
_LEAST_FREE = 64 << 20  # Bytes on the disk, below which no programs are kept.

# Environment variables of JAX that the user may have set.
_FOLDER = 'JAX_COMPILATION_CACHE_DIR'
_MIN_TIME = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'


def keep_programs(place: str = '', tell: bool = True) -> None:
  """Keep compiled programs for later runs; call this before anything is compiled.

  Say where if the folder is new, and why if no programs can be kept.

  Args:
    place: the folder, which may be on gs://; 'off' to keep none. By default that of the environment
      variable JAX_COMPILATION_CACHE_DIR, or else `default_folder`.
    tell: whether to print; of several processes, one should.
  """
  import jax

  config: Any = jax.config  # Its attributes are made at run time.
  if place == OFF or not config.jax_enable_compilation_cache:
    config.update('jax_enable_compilation_cache', False)
    return
  say = _print if tell else lambda text: None
  given = place or config.jax_compilation_cache_dir
  folder = given or str(default_folder())
  if '://' not in folder and (problem := _prepared(Path(folder), not given, say)):
    say(_unusable(folder, problem))
    config.update('jax_enable_compilation_cache', False)
    return
  config.update('jax_compilation_cache_dir', folder)
  if _MIN_TIME not in os.environ:
    # Small programs too: there are many, and each takes longer to compile than to read.
    config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  if not given:
    config.update('jax_compilation_cache_max_size', MAX_BYTES)
  _handle_errors(folder, not given, say)


def default_folder() -> Path:
  """Return the folder of compiled programs in the user's cache directory, for this kind of CPU."""
  from platformdirs import user_cache_path

  return user_cache_path('ttm_jax') / f'programs-{cpu_kind()}'


def cpu_kind() -> str:
  """Return 12 characters that differ between CPUs with different instructions."""
  info = Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
  known = {line for line in lines if line.startswith(('flags', 'Features', 'model name'))}
  return hashlib.sha256('\n'.join([platform.machine(), *sorted(known)]).encode()).hexdigest()[:12]


def _prepared(folder: Path, ours: bool, say: Say) -> str:
  """Make a local folder ready; return why it cannot be used, or an empty string."""
  try:
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
      file.write(b'x')
    if shutil.disk_usage(folder).free < _LEAST_FREE:
      return 'the disk is full'
    if ours:
      _remove_incomplete(folder)
  except OSError as error:
    return (error.strerror or str(error)).lower()
  if new:
    say(
      f'compiled programs are kept in {folder}, so that the next start is faster;'
      f' --compilation_cache={OFF} keeps none, and --compilation_cache or {_FOLDER} names another'
      ' folder'
    )
  return ''


def _remove_incomplete(folder: Path) -> None:
  """Remove programs that were written in part, when the disk was full or a process was killed.

  JAX writes the time of access of a program after the program, and needs it to remove the oldest.
  """
  names = {path.name for path in folder.iterdir()}
  for name in names:
    if name.endswith('-cache') and f'{name.removesuffix("-cache")}-atime' not in names:
      with contextlib.suppress(OSError):
        (folder / name).unlink()


def _handle_errors(folder: str, ours: bool, say: Say) -> None:
  """Report the first program that cannot be kept, instead of a warning of JAX for each.

  In our own folder, remove programs that cannot be read: JAX would not write them again.
  """
  usual = warnings.showwarning
  told: list[bool] = []

  def show(message: Any, *args: Any, **options: Any) -> None:
    found = _ERROR.match(str(message))
    if not found:
      usual(message, *args, **options)
    elif found['what'] == 'reading' and ours and found['error'] not in _PASSING:
      for path in Path(folder).glob(f'{found["program"]}-*'):
        path.unlink(missing_ok=True)
    elif found['what'] == 'writing' and not told:
      told.append(True)
      say(_unusable(folder, found['reason']))

  warnings.showwarning = show
  warnings.filterwarnings('always', _ERROR.pattern)


def _unusable(folder: str, problem: str) -> str:
  return (
    f'compiled programs cannot be kept in {folder} ({problem}), so that the next start compiles'
    f' again; name another folder with --compilation_cache or {_FOLDER}'
  )


def _print(text: str) -> None:
  print(f'note: {printable(text)}', file=sys.stderr, flush=True)
