"""Log a run: progress bar, JSONL, TensorBoard and, optionally, Weights & Biases.

Metrics stay on the device; the host fetches them at log steps only.
"""

import contextlib
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from ttm_jax import json_lines
from ttm_jax.data.storage import copy, is_local
from ttm_jax.errors import InputError, printable
from ttm_jax.parallel.chips import chip_of
from ttm_jax.training.objective import Metrics
from ttm_jax.training.step_timer import StepTimer

PERCENTILES = (50, 90, 99)

# Seconds between two flushes of the metrics to disk, or copies to a bucket.
_MIRROR_EVERY = 30.0

# One line for each start of the run.
STARTS = 'starts.jsonl'
METRICS = 'metrics.jsonl'


class Telemetry:
  """Collects the metrics of steps and writes their means at log steps.

  Each log step also reports, for the steps since the previous one:

  - `samples_per_s`: throughput of all devices together.
  - `mfu`: model FLOP utilization, as a share of the devices' peak. Masked-out pairs of attention do
    not count.
  - `data_wait`: share of the time that the device waited for data.
  - `step_s_pN`: percentiles of the step durations on the device, in seconds.
  - `busy_s`: sum of the step durations, in seconds.
  - `memory_gb`: peak memory of a device of this process so far, in GB, if the platform reports it.
  - `goodput`: share of the time since the first start of the run that was spent on steps that are
    part of it. Steps lost by a killed process, restarts, compilation, evaluation and saving do not
    count.
  """

  def __init__(
    self,
    workdir: epath.Path,
    config: ConfigDict,
    start: int,
    flops: float,
    write: bool,
    clock: StepTimer,
  ):
    """Open the log files of a run directory, and continue them if they exist.

    Args:
      workdir: the run directory, local or on gs://.
      config: configuration of the run.
      start: the step after which this process starts.
      flops: FLOPs of one sample, forward and backward; used if the metrics have no `gflops`.
      write: whether this process writes; if false, nothing is written or printed.
      clock: the step timer.

    Raises:
      InputError: if `config.job.wandb` is set and wandb is not installed.
    """
    self._pending: list[Metrics] = []
    self._samples, self._flops, self._write = config.data.batch_size, flops, write
    self._clock = clock
    self._peak = peak_flops() * jax.device_count()
    self._since, self._steps_since = time.perf_counter(), start
    self._busy, self._begun = 0.0, time.time()
    if not write:
      return
    self._workdir, self._mirrored = workdir, time.monotonic()
    self._closing = contextlib.ExitStack()
    self._folder = Path(workdir)
    if not is_local(workdir):
      # Files in buckets cannot be appended to, so local files are copied there periodically.
      self._folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory()))
      for name in (STARTS, METRICS):
        if (workdir / name).exists():
          copy(workdir / name, self._folder / name)
    for name in (STARTS, METRICS):
      _cut_half_line(self._folder / name)
    with open(self._folder / STARTS, 'a', encoding='utf-8') as file:
      line = {'time': time.time(), 'step': start, 'devices': jax.device_count()}
      file.write(json.dumps(line) + '\n')
      _to_disk(file)
    self._busy, self._begun, bad = _so_far(self._folder, start)
    self._file = open(self._folder / METRICS, 'a', encoding='utf-8')  # noqa: SIM115
    self._board = SummaryWriter(str(self._folder / 'tensorboard'))
    self._wandb = _wandb(workdir, config, self._folder, self._begun) if config.job.wandb else None
    self._console = Console(file=sys.stderr)
    self._bar = Progress(
      TextColumn('{task.description}'),
      BarColumn(),
      MofNCompleteColumn(),
      TimeRemainingColumn(),
      TextColumn('{task.fields[shown]}'),
      console=self._console,
      disable=not self._console.is_terminal,
    )
    self._task = self._bar.add_task('train', total=config.train.steps, completed=start, shown='')
    self._bar.start()
    for name, count in bad.items():
      if count:
        self.say(f'{workdir}/{name}: {count} damaged line(s) are left out')

  def add(self, metrics: Metrics) -> None:
    """Add the metrics of one step; they stay on the device."""
    self._pending.append(metrics)

  def log(self, step: int, more: Mapping[str, float]) -> dict[str, float]:
    """Wait for all steps, fetch the pending metrics and write their means.

    Args:
      step: steps done.
      more: further values to write.

    Returns:
      All values written, by name without the prefix 'train/'.
    """
    pending, self._pending = jax.device_get(self._pending), []
    self._clock.settle()
    durations, starved = self._clock.read()
    values = means(pending)
    flops = values.pop('gflops', self._flops / 1e9) * 1e9
    now = time.perf_counter()
    seconds = max(now - self._since, 1e-9)
    rate = (step - self._steps_since) * self._samples / seconds
    self._since, self._steps_since = now, step
    self._busy += sum(durations)
    values |= more
    values['samples_per_s'] = rate
    values['data_wait'] = min(starved / seconds, 1.0)
    values['mfu'] = rate * flops / self._peak
    if durations:
      for percent, value in zip(PERCENTILES, np.percentile(durations, PERCENTILES), strict=True):
        values[f'step_s_p{percent}'] = float(value)
    values['busy_s'] = float(sum(durations))
    values['goodput'] = min(self._busy / max(time.time() - self._begun, self._busy, 1e-9), 1.0)
    held = most_memory()
    if held is not None:
      values['memory_gb'] = held / 1e9
    self.write(step, values, 'train/')
    return values

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Exclude the time of the enclosed block, such as sampling or saving, from step statistics."""
    self._clock.settle()
    begin = time.perf_counter()
    yield
    self._clock.pause()
    self._since += time.perf_counter() - begin

  def write(self, step: int, values: dict[str, float], prefix: str) -> None:
    """Write one line of metrics and update the progress bar.

    Args:
      step: steps done.
      values: metrics by name. Names of NaN and Inf values are listed under 'not_finite'.
      prefix: prepended to the names, such as 'train/'.
    """
    if not self._write:
      return
    named = {prefix + name: value for name, value in values.items() if math.isfinite(value)}
    bad = [prefix + name for name, value in values.items() if not math.isfinite(value)]
    line = {'step': step, 'time': round(time.time(), 3), **named}
    self._file.write(json.dumps(line | ({'not_finite': bad} if bad else {})) + '\n')
    self._file.flush()
    for name, value in named.items():
      self._board.add_scalar(name, value, step)
    if self._wandb:
      self._wandb.log(named, step=step)
    shown = ' '.join(
      f'{name} {values[name]:.4g}' for name in ('loss', 'samples_per_s') if name in values
    )
    self._bar.update(self._task, completed=step, shown=shown)
    if not self._console.is_terminal:
      self.say(f'{prefix}step {step}: {shown}')
    if time.monotonic() - self._mirrored > _MIRROR_EVERY:
      _to_disk(self._file)
      self._mirror()

  def advance(self, step: int) -> None:
    """Update the progress bar."""
    if self._write:
      self._bar.update(self._task, completed=step)

  def say(self, text: str) -> None:
    """Print a message to stderr, above the progress bar."""
    if self._write:
      self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

  def close(self) -> None:
    """Flush and close all files."""
    if not self._write:
      return
    self._bar.stop()
    _to_disk(self._file)
    self._file.close()
    self._board.close()
    if self._wandb:
      self._wandb.finish()
    self._mirror()
    self._closing.close()

  def _mirror(self) -> None:
    self._mirrored = time.monotonic()
    if not is_local(self._workdir):
      self._board.flush()
      copy(self._folder, self._workdir)


def _cut_half_line(path: Path) -> None:
  """Remove an incomplete last line, which a crashed machine may have left."""
  if path.exists() and not (data := path.read_bytes()).endswith(b'\n'):
    path.write_bytes(data[: data.rfind(b'\n') + 1])


def _so_far(folder: Path, start: int) -> tuple[float, float, dict[str, int]]:
  """Read the history of a resumed run.

  Args:
    folder: the folder of the log files.
    start: the step to resume after.

  Returns:
    Seconds spent on the steps up to `start`; Unix time of the first start of the run; number of
    corrupt lines by file name.
  """
  starts, bad_starts = json_lines.read(folder / STARTS)
  lines, bad_lines = json_lines.read(folder / METRICS)
  times = [line['time'] for line in starts if json_lines.is_number(line.get('time'))]
  busy: dict[float, float] = {}
  for line in lines:
    step, seconds = line.get('step'), line.get('train/busy_s')
    if json_lines.is_number(step) and json_lines.is_number(seconds) and step <= start:
      busy[step] = seconds
  return sum(busy.values()), times[0], {STARTS: bad_starts, METRICS: bad_lines}


def _to_disk(file: IO[str]) -> None:
  """Flush a file to disk; ignore file systems that do not support it."""
  file.flush()
  with contextlib.suppress(OSError):
    os.fsync(file.fileno())


def _wandb(workdir: epath.Path, config: ConfigDict, folder: Path, begun: float) -> Any:
  """Start or resume the run at Weights & Biases.

  Raises:
    InputError: if the package is not installed.
  """
  try:
    import wandb
  except ImportError as error:
    raise InputError(
      "--config.job.wandb needs the package wandb: pip install 'ttm_jax[wandb]', or leave it empty"
    ) from error
  name = hashlib.sha256(f'{workdir} {begun}'.encode()).hexdigest()[:16]
  return wandb.init(
    project=config.job.wandb,
    id=name,
    name=workdir.name,
    resume='allow',
    dir=str(folder),
    config=config.to_dict(),
  )


def most_memory() -> float | None:
  """Return the peak memory of the local devices in bytes; None if they do not report it."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  peaks = [stat['peak_bytes_in_use'] for stat in stats if stat and 'peak_bytes_in_use' in stat]
  return max(peaks) if peaks else None


def means(pending: list[Metrics]) -> dict[str, float]:
  """Return the mean of each metric over steps; omit finite metrics whose count is zero."""
  values = {}
  for name in pending[0] if pending else ():
    total, count = np.sum([np.asarray(m[name], np.float64) for m in pending], axis=0)
    if count > 0 or not math.isfinite(total):
      values[name] = float(total / max(count, 1e-9))
  return values


def peak_flops() -> float:
  """Return the peak matrix multiplication throughput of one device in FLOP/s.

  For a chip in `parallel.chips`, the vendor's dense bfloat16 figure. For other devices, such as
  CPUs, time a float32 product of 1024 x 1024 matrices.
  """
  chip = chip_of(jax.devices()[0].device_kind)
  if chip is not None:
    return chip.flops
  x = jnp.ones((1024, 1024), jnp.float32)
  product = jax.jit(lambda a: a @ a)
  jax.block_until_ready(product(x))
  begin = time.perf_counter()
  for _ in range(3):
    y = product(x)
  jax.block_until_ready(y)
  return 3 * 2 * 1024**3 / (time.perf_counter() - begin) / jax.local_device_count()
