"""Shards over processes or machines, by Apache Beam.

On one machine Beam's own local runner does it: in this process, or in several, each of which builds
the models once. It is named outright, since Beam's default may want to download a program.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tqdm

from data_tools import parts
from data_tools.shard import Shard, Work, run
from ttm_jax.errors import InputError

_BEAM_SAYS = ' [while running'  # To every error.


@contextlib.contextmanager
def progress(root: Path, shards: Sequence[Shard]) -> Iterator[None]:
  """A bar of videos with clips a second, fed by the finished parts."""
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
      folder = parts.part_folder(root, number)
      if parts.is_finished(folder):
        found = len(parts.read_tally(folder)[1].clips)
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


def run_all(work: Work, shards: Sequence[Shard], workers: int, beam_options: Sequence[str]) -> None:
  """Runs the pipeline.

  Raises:
    InputError: a shard could not be written; the finished ones are kept.
  """
  if not shards:
    return
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions

  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  local = not any(option.startswith('--runner') for option in beam_options)
  options = list(beam_options)
  if local:
    mode = 'in_memory' if workers == 1 else 'multi_processing'
    options += ['--runner=FnApiRunner', f'--direct_num_workers={workers}']
    options += [f'--direct_running_mode={mode}', '--default_sdk_harness_log_level=ERROR']
  try:
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
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
    lines = [line for line in str(error).splitlines() if 'InputError: ' in line]
    if not lines:
      raise
    said = lines[-1].split('InputError: ', 1)[1].split(_BEAM_SAYS)[0]
    raise InputError(said) from error


def _quietly(shard: Shard, work: Work) -> None:
  # A worker is a process of its own, whose harness logs every step it takes.
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  run(shard, work)
