"""What a run says of itself: a progress bar for people, JSONL and TensorBoard for later.

Metrics stay on the device until they are written: the host waits for it at log steps only.
"""

import json
import math
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from ttm_jax.training.objective import Metrics

# Dense bfloat16 peaks of the vendors' data sheets, FLOP/s a device.
PEAK_FLOPS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU7x': 2307e12,
  'NVIDIA A100': 312e12,
  'NVIDIA H100': 989e12,
  'NVIDIA H200': 989e12,
  'NVIDIA B200': 2250e12,
}


class Telemetry:
  """Collects metrics of steps and writes them at log steps; silent where `write` is false."""

  def __init__(
    self, workdir: Path, steps: int, start: int, samples: int, flops: float, write: bool
  ):
    """Args:
    samples: of a global batch; flops: of one of its samples, forward and backward.
    """
    self._pending: list[Metrics] = []
    self._samples, self._flops, self._write = samples, flops, write
    self._peak = peak_flops() * jax.device_count()
    self._waited, self._since, self._steps_since = 0.0, time.perf_counter(), start
    if not write:
      return
    self._file = open(workdir / 'metrics.jsonl', 'a', encoding='utf-8')  # noqa: SIM115
    self._board = SummaryWriter(str(workdir / 'tensorboard'))
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
    self._task = self._bar.add_task('train', total=steps, completed=start, shown='')
    self._bar.start()

  def waited(self, seconds: float) -> None:
    """Adds to the time that steps waited for data."""
    self._waited += seconds

  def add(self, metrics: Metrics) -> None:
    """Keeps the metrics of one step, on the device."""
    self._pending.append(metrics)

  def log(self, step: int) -> dict[str, float]:
    """Fetches what is pending and writes its means.

    Returns:
      The metrics, those of the device first.
    """
    pending, self._pending = jax.device_get(self._pending), []
    values = means(pending)
    now = time.perf_counter()
    seconds = max(now - self._since, 1e-9)
    rate = (step - self._steps_since) * self._samples / seconds
    values['samples_per_s'] = rate
    values['data_wait'] = self._waited / seconds
    values['mfu'] = rate * self._flops / self._peak
    self._waited, self._since, self._steps_since = 0.0, now, step
    self.write(step, values, 'train/')
    return values

  def pause(self) -> 'Pause':
    """A context in which time passes that does not belong to the steps (sampling, saving)."""
    return Pause(self)

  def write(self, step: int, values: dict[str, float], prefix: str) -> None:
    """One line of metrics, and where the bar is."""
    if not self._write:
      return
    named = {prefix + name: value for name, value in values.items() if math.isfinite(value)}
    bad = [prefix + name for name, value in values.items() if not math.isfinite(value)]
    line = {'step': step, **named, **({'not_finite': bad} if bad else {})}
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()
    for name, value in named.items():
      self._board.add_scalar(name, value, step)
    shown = ' '.join(
      f'{name} {values[name]:.4g}' for name in ('loss', 'samples_per_s') if name in values
    )
    self._bar.update(self._task, completed=step, shown=shown)
    if not self._console.is_terminal:
      self.say(f'{prefix}step {step}: {shown}')

  def advance(self, step: int) -> None:
    """Moves the bar."""
    if self._write:
      self._bar.update(self._task, completed=step)

  def say(self, text: str) -> None:
    """One line for the person who watches."""
    if self._write:
      self._console.print(text, markup=False, highlight=False, soft_wrap=True)

  def close(self) -> None:
    if self._write:
      self._bar.stop()
      self._file.close()
      self._board.close()


class Pause:
  """See `Telemetry.pause`."""

  def __init__(self, telemetry: Telemetry):
    self._telemetry = telemetry

  def __enter__(self):
    self._begin = time.perf_counter()

  def __exit__(self, *_):
    self._telemetry._since += time.perf_counter() - self._begin


def means(pending: list[Metrics]) -> dict[str, float]:
  """The mean of each metric over steps; those that nothing counted for are left out."""
  values = {}
  for name in pending[0] if pending else ():
    total, count = np.sum([np.asarray(m[name], np.float64) for m in pending], axis=0)
    if count > 0 or not math.isfinite(total):
      values[name] = float(total / max(count, 1e-9))
  return values


def peak_flops() -> float:
  """The matrix-product peak of one device, FLOP/s.

  From the vendors' figures for accelerators; a CPU is timed on a float32 product of 1024.
  """
  kind = jax.devices()[0].device_kind
  matches = [name for name in PEAK_FLOPS if kind.startswith(name)]
  if matches:
    return PEAK_FLOPS[max(matches, key=len)]
  x = jnp.ones((1024, 1024), jnp.float32)
  product = jax.jit(lambda a: a @ a)
  jax.block_until_ready(product(x))
  begin = time.perf_counter()
  for _ in range(3):
    y = product(x)
  jax.block_until_ready(y)
  return 3 * 2 * 1024**3 / (time.perf_counter() - begin) / jax.local_device_count()
