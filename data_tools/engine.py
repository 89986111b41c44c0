"""Shards over processes of this machine, or over machines by Apache Beam.

Here shards are worked off in this process, or by a pool of processes, each of which builds the
models once. These talk through pipes: nothing listens on a network. (Beam's own local runners with
several workers serve on all network interfaces, so they are refused.)
"""

import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import tqdm

from data_tools import parts
from data_tools.extras import needed
from data_tools.shard import Shard, Work, run
from ttm_jax.errors import InputError

_BEAM_SAYS = ' [while running'  # To every error.
_IN_MEMORY = 'in_memory'
_LOCAL_RUNNERS = (
  *('directrunner', 'switchingdirectrunner', 'bundlebaseddirectrunner', 'fnapirunner'),
  'prismrunner',
)


@contextlib.contextmanager
def progress(root: Path, shards: Sequence[Shard]) -> Iterator[None]:
  """Show a bar of videos with clips a second, fed by the finished parts."""
  done = threading.Event()
  rare = 0.5 if sys.stderr.isatty() else 30
  bar = tqdm.tqdm(
    total=sum(len(s.videos) for s in shards), desc='prepare', unit=' videos', mininterval=rare
  )
  left = {s.number: len(s.videos) for s in shards}
  start, clips, before = time.monotonic(), 0, True

  def look() -> None:
    nonlocal clips
    for number in list(left):
      if part := parts.read_part(parts.part_folder(root, number)):
        found = len(part.tally.clips)
        videos = left.pop(number)
        if before:
          bar.initial += videos
          bar.n += videos
        else:
          clips += found
          bar.update(videos)
          rate = clips / max(time.monotonic() - start, 1e-9)
          bar.set_postfix_str(f'{clips} clips, {rate:.2f} clips/s', refresh=False)

  def watch() -> None:
    while not done.wait(0.5):
      look()

  look()
  before = False
  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    look()
    bar.close()


def run_all(work: Work, shards: Sequence[Shard], workers: int, options: Sequence[str]) -> None:
  """Work off all shards.

  Args:
    workers: processes of this machine; one means this process.
    options: where not empty, Beam does it by these, see `beam_options`.

  Raises:
    InputError: a shard could not be written; the finished ones are kept.
  """
  if options:
    _by_beam(work, shards, options)
  elif workers == 1 or len(shards) < 2:
    for shard in shards:
      run(shard, work)
  else:
    _by_processes(work, shards, min(workers, len(shards)))


def _by_processes(work: Work, shards: Sequence[Shard], workers: int) -> None:
  others = set(multiprocessing.active_children())
  # A forked copy of a process with threads may hang.
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(workers, context, _be_a_worker) as pool:
    try:
      for future in concurrent.futures.as_completed(pool.submit(run, s, work) for s in shards):
        future.result()
    except BrokenProcessPool as error:
      raise InputError(
        'a worker process was killed, perhaps because memory ran out; run the same command again,'
        f' with fewer than --workers {workers}'
      ) from error
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      for process in set(multiprocessing.active_children()) - others:
        process.terminate()
      raise


def _be_a_worker() -> None:
  """Leave Ctrl-C to the parent, and end when it ends, however that happens."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def beam_options(given: Sequence[str]) -> list[str]:
  """Return Beam's options as they are to be used, checked.

  Raises:
    InputError: they name no runner, or one that would serve on all network interfaces; or Beam is
      not installed.
  """
  if not given:
    return []
  options = needed('apache_beam.options.pipeline_options', '--runner')
  parsed = options.PipelineOptions(list(given))
  runner = parsed.view_as(options.StandardOptions).runner
  mode = parsed.view_as(options.DirectOptions).direct_running_mode
  if not runner:
    raise InputError(
      f'{given[0]}: options of Apache Beam need --runner=...; without one, leave them out and give'
      ' --workers before --'
    )
  if runner.lower().rpartition('.')[2] not in _LOCAL_RUNNERS:
    return list(given)
  if mode != _IN_MEMORY:
    raise InputError(
      f'--direct_running_mode={mode}: would serve on all network interfaces of this machine; give'
      ' --workers before -- instead'
    )
  # Of the local runners, the only one that does not listen at all. The last option counts.
  return [*given, '--runner=FnApiRunner', '--default_sdk_harness_log_level=ERROR']


def _by_beam(work: Work, shards: Sequence[Shard], options: Sequence[str]) -> None:
  if not shards:
    return
  beam = needed('apache_beam', '--runner')
  pipeline_options = needed('apache_beam.options.pipeline_options', '--runner')
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  try:
    with beam.Pipeline(options=pipeline_options.PipelineOptions(list(options))) as pipeline:
      _ = (
        pipeline
        | 'Shards' >> beam.Create(list(shards))
        | 'Spread' >> beam.Reshuffle()
        | 'Prepare' >> beam.Map(_quietly, work)
      )
  except InputError as error:
    raise InputError(str(error).split(_BEAM_SAYS)[0]) from error
  except Exception as error:
    # Beam hands on what a worker raised as text, a traceback and its last line.
    lines = [line for line in str(error).split('\n') if 'InputError: ' in line]
    if not lines:
      raise
    said = lines[-1].split('InputError: ', 1)[1].split(_BEAM_SAYS)[0]
    raise InputError(said) from error


def _quietly(shard: Shard, work: Work) -> None:
  # A worker is a process of its own, whose harness logs every step it takes.
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  run(shard, work)
