"""Distribute shards over local processes, or over machines with Apache Beam.

Locally, shards run in this process or in a pool of processes, each of which loads the models once.
The processes communicate through pipes, so no network port is opened. Beam's local runners with
several workers listen on all network interfaces, so they are refused.
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
from data_tools.shard import Shard, Work, run
from ttm_jax.errors import InputError

_BEAM_SAYS = ' [while running'  # Beam appends this to the message of every error.
_IN_MEMORY = 'in_memory'
_LOCAL_RUNNERS = (
  *('directrunner', 'switchingdirectrunner', 'bundlebaseddirectrunner', 'fnapirunner'),
  'prismrunner',
)


@contextlib.contextmanager
def progress(root: Path, shards: Sequence[Shard]) -> Iterator[None]:
  """Show a progress bar of videos with clips/s, updated from the finished parts."""
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
  """Process all shards.

  Args:
    work: settings that all shards share.
    shards: the shards to process.
    workers: number of local processes; 1 runs in this process.
    options: Beam pipeline options; if not empty, run with Beam instead. See `beam_options`.

  Raises:
    InputError: if a shard fails; finished parts are kept.
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
  # Forking a process with threads can deadlock.
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
  """Ignore SIGINT, which the parent handles, and exit when the parent exits for any reason."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def beam_options(given: Sequence[str]) -> list[str]:
  """Validate Beam options and return those to use.

  Raises:
    InputError: if no runner is named, or the runner would listen on all network interfaces.
    ImportError: if Beam is not installed.
  """
  if not given:
    return []
  from apache_beam.options import pipeline_options as options

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
      f'--direct_running_mode={mode}: opens ports on all network interfaces of this machine; give'
      ' --workers before -- instead'
    )
  # FnApiRunner in memory is the only local runner that opens no port. The last option wins.
  return [*given, '--runner=FnApiRunner', '--default_sdk_harness_log_level=ERROR']


def _by_beam(work: Work, shards: Sequence[Shard], options: Sequence[str]) -> None:
  if not shards:
    return
  import apache_beam as beam
  from apache_beam.options import pipeline_options

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
    # Beam reports a worker's exception as text: a traceback that ends in the message.
    lines = [line for line in str(error).split('\n') if 'InputError: ' in line]
    if not lines:
      raise
    said = lines[-1].split('InputError: ', 1)[1].split(_BEAM_SAYS)[0]
    raise InputError(said) from error


def _quietly(shard: Shard, work: Work) -> None:
  # Each Beam worker is a separate process, whose harness would log every stage.
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  run(shard, work)
