"""State of a `prepare` job on disk: locking, resuming and finishing.

The job works in `OUT.incomplete`, which holds `job.json` (the options) and the finished parts. When
all parts are done, that folder is renamed to OUT. OUT then holds `shards.json`, by which a later
job detects the sources that have changed.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

from data_tools import parts
from ttm_jax import atomic
from ttm_jax.errors import InputError
from ttm_jax.outputs import writing

JOB = 'job.json'
_REPORTS = ('report.json', 'report.html', parts.SHARDS)
_DESCRIPTION = ('dataset_info.json', 'features.json', 'metadata.json')
# Keys of `what` that depend on the source files. All other keys are options.
SOURCE = ('videos', 'digest')


def work_folder(out: Path) -> Path:
  """Return the work folder of the job that writes `out`."""
  return out.parent / f'{out.name}.incomplete'


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
  """Hold an exclusive file lock on `out`, which the system releases when the process ends.

  Raises:
    InputError: if another process holds the lock, or the parent folder cannot be written.
  """
  path = out.parent / f'.{out.name}.lock'
  with writing(out.parent, 'name another --out'):
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, timeout=0)
    try:
      lock.acquire()
    except filelock.Timeout as error:
      raise InputError(
        f'{out}: another process is preparing it; wait until it ends, or name another --out'
      ) from error
  try:
    yield
  finally:
    path.unlink(missing_ok=True)  # A process that waits for the lock detects the removal.
    lock.release()


def begin(out: Path, what: dict[str, Any], digests: Sequence[str], buckets: Sequence[str]) -> bool:
  """Prepare the work folder, and return False if `out` is finished and up to date.

  Reuse the parts of an interrupted job and of a finished dataset whose sources are unchanged.

  Args:
    out: folder of the dataset.
    what: options of the job, with the number of videos and the digest of the source.
    digests: digests of all shards, in order.
    buckets: names of the buckets.

  Raises:
    InputError: if `out` holds something else or the result of a job with other options, or if it
      cannot be written.
  """
  incomplete = work_folder(out)
  if parts.read_shards(incomplete) is not None:
    finish(out)  # An earlier job was interrupted in `finish`.
  finished = parts.read_shards(out)
  if finished is None:
    if _is_taken(out):
      raise InputError(f'{out}: already in use; remove it or name another folder')
  elif finished[0] == what:
    return False
  else:
    if differs := _difference(finished[0], what):
      raise InputError(
        f'{out}: already in use by another job: {differs}; give the same options, or name another'
        ' folder'
      )
    if foreign := _foreign(out, buckets):
      raise InputError(
        f'{out}: must be written again since the source has changed, but contains {foreign}, which'
        ' is not part of the dataset; move it away, or name another --out'
      )
  _resume(incomplete, what)
  before = sum(one.name.isdecimal() for one in _entries(incomplete / 'parts'))
  kept = parts.keep(incomplete, digests, buckets)
  if kept:
    print(f'{kept} of {len(digests)} shards are finished already')
  if before > kept:
    print(f'{before - kept} finished shards are made again, since their sources have changed')
  if finished is not None:
    with writing(incomplete, 'free space, then run the same command again'):
      parts.take_back(out, incomplete, digests, buckets)
    same = len({*digests} & {part.digest for part in finished[1]})
    print(
      f'{out}: the source has changed; {same} of {len(digests)} shards are kept, the others are'
      ' made again'
    )
  return True


def _entries(folder: Path) -> list[Path]:
  return list(folder.iterdir()) if folder.is_dir() else []


def _is_taken(out: Path) -> bool:
  return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _difference(before: dict[str, Any], what: dict[str, Any]) -> str:
  """Describe the first option in which two jobs differ; '' if there is none."""
  for name in sorted({*before, *what}):
    if name not in SOURCE and before.get(name) != what.get(name):
      return f'{name} is {before.get(name)!r} there and {what.get(name)!r} here'
  return ''


def _foreign(out: Path, buckets: Sequence[str]) -> str:
  """Return the name of a file in a finished dataset that `prepare` did not write, or ''."""
  places = [out] if len(buckets) == 1 else [out, *(out / bucket for bucket in buckets)]
  for place in places:
    for entry in sorted(_entries(place)):
      ours = (*_DESCRIPTION, *(_REPORTS if place == out else ()))
      records = entry.name.startswith('clips-') and '.array_record-' in entry.name
      if entry.name not in ours and not records and entry not in places:
        return entry.name
  return ''


def _resume(incomplete: Path, what: dict[str, Any]) -> None:
  """Start a job, or resume an interrupted one with the same options.

  Replace an interrupted job with other options if it has not written any records.

  Raises:
    InputError: if such a job has records, or the work folder cannot be written.
  """
  job = incomplete / JOB
  try:
    before = json.loads(job.read_text())
    if not isinstance(before, dict):
      raise ValueError
  except (OSError, ValueError, RecursionError):
    shutil.rmtree(incomplete, ignore_errors=True)
  else:
    differs = _difference(before, what)
    if differs and next(incomplete.rglob('*.array_record*'), None):
      raise InputError(
        f'{incomplete} belongs to another job: {differs}; give the same options, or remove the'
        ' folder'
      )
    if differs:
      shutil.rmtree(incomplete, ignore_errors=True)
    for entry in _entries(incomplete):
      if entry.name in _REPORTS:
        entry.unlink()
  with writing(incomplete, 'free space, or name another --out'):
    atomic.write_text(job, json.dumps(what, indent=2))


def finish(out: Path) -> None:
  """Rename the work folder to `out`, replacing an earlier dataset.

  Raises:
    InputError: if `out` cannot be written, or holds something that is not a dataset.
  """
  incomplete = work_folder(out)
  with writing(out, 'run the same command again'):
    shutil.rmtree(incomplete / 'parts', ignore_errors=True)
    (incomplete / JOB).unlink(missing_ok=True)
    atomic.flush_tree(incomplete)
    old = out.with_name(f'.{out.name}.replaced')
    shutil.rmtree(old, ignore_errors=True)
    if _is_taken(out) and parts.read_shards(out) is None:
      raise InputError(
        f'{out}: was created by another process; move it away, then run the same command again'
      )
    if out.exists():
      out.rename(old)
    incomplete.rename(out)
    atomic.flush(out.parent)
    shutil.rmtree(old, ignore_errors=True)
