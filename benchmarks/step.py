"""Benchmark the train step of a configuration on the attached devices, in the training loop.

    python -m benchmarks.step --config=configs/stage2_dit.py --config.data.batch_size=2 \\
        --config.model.remat=dots

Trains on random records of the paper's size, read from disk by the regular loader. Saves nothing.
Prints the step time, MFU, wait for data, peak memory next to the planned memory, and the most
expensive kernels of a profile.
"""

import collections
import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags
from rich.console import Console
from rich.table import Table

from ttm_jax.data import latents
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.parallel.mesh import mesh_sizes
from ttm_jax.planning import hardware, inputs
from ttm_jax.planning.compile import Run
from ttm_jax.planning.report import analytic_report
from ttm_jax.settings import parse_flags
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.loop import train
from ttm_jax.training.profile import FOLDER
from ttm_jax.training.telemetry import METRICS

_CONFIG = config_flags.DEFINE_config_file('config', None, 'configuration file, see configs/')
_STEPS = flags.DEFINE_integer('steps', 20, 'timed steps, after as many warm-up steps')
_TOPOLOGY = flags.DEFINE_string(
  'topology', 'h200x1', 'this machine, as a --topology of ttm_jax.plan'
)
_RECORDS = flags.DEFINE_integer('records', 64, 'random records of the dataset')
_TOKENS = flags.DEFINE_integer('tokens', 40, 'tokens per text')
_KERNELS = flags.DEFINE_integer('kernels', 15, 'kernels to print from a profile of two steps')
_JSON = flags.DEFINE_string('json', '', 'file for the measurements')
flags.mark_flag_as_required('config')


class Finished(Exception):
  """Raised in place of a batch after the last step, so that the loop ends without saving."""


class Limited(Denoising):
  """A denoising objective that ends after a fixed number of batches, and saves no context."""

  def __init__(self, config: ConfigDict, context: Any, steps: int):
    super().__init__(config, context)
    self._steps = steps

  def begin(self, directory: Path) -> None:
    """Save nothing: the context has shapes instead of weights."""

  def batches(self, split: str, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of a split; raise Finished at their end."""
    yield from itertools.islice(super().batches(split, start), self._steps)
    raise Finished


def main(argv: list[str]) -> None:
  del argv
  config, steps = _CONFIG.value, _STEPS.value
  console = Console()
  context = inputs.typical_context(config)
  with tempfile.TemporaryDirectory(prefix='step') as folder:
    root = Path(folder)
    config.data.path = str(root / 'data')
    config.train.update(log_every=steps, evaluate_every=0, sample_every=0, evaluate_batches=1)
    of_one = inputs.record(context)
    latents.write_records(
      root / 'data',
      {'train': random_records(of_one, _RECORDS.value), 'validation': random_records(of_one, 8)},
    )
    # Two more steps for the profile, which are not timed.
    objective = Limited(config, context, 2 * steps + 2)
    with contextlib.suppress(Finished):
      train(config, objective, root / 'run', profile=f'{2 * steps + 1}:{2 * steps + 2}')
    logged = [json.loads(line) for line in (root / 'run' / METRICS).read_text().splitlines()]
    figures = {name.removeprefix('train/'): value for name, value in logged[-1].items()}
    profile = next((root / 'run' / FOLDER).rglob('*.xplane.pb'), None)
    costs = kernels(profile, 2) if profile else []
  figures['planned_gb'] = planned(config) / 1e9
  figures['device'] = jax.devices()[0].device_kind
  console.print(table(config, figures))
  if costs:
    console.print(profile_table(costs[: _KERNELS.value], sum(ms for _, _, ms in costs)))
  if _JSON.value:
    Path(_JSON.value).write_text(json.dumps(figures | {'kernels': costs}, indent=2) + '\n')


def random_records(of_one: inputs.Shapes, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yield `count` records with random latents and texts, and two rectangular objects."""
  rng = np.random.default_rng(0)
  arrays = {name: array(rng, name, of_one) for name in of_one}
  for number in range(count):
    yield str(number), {**arrays, 'key': f'{number}#0', 'ids': b''}


def array(rng: np.random.Generator, name: str, of_one: inputs.Shapes) -> np.ndarray:
  """Return a random array for the field `name` of a record (see `data.batch`)."""
  shape, dtype = of_one[name].shape, np.dtype(of_one[name].dtype)
  if dtype.kind == 'f':
    return rng.standard_normal(shape, np.float32).astype(dtype)
  if name.endswith('_length'):
    most = of_one[name.removesuffix('_length')].shape[-2]
    counts = np.full(shape, min(_TOKENS.value, most), dtype)
    if shape == (MAX_OBJECTS,):
      counts[2:] = 0
    return counts
  if name == 'permutation':
    return np.arange(*shape, dtype=dtype)
  made = np.zeros(shape, dtype)
  if name.startswith('token_masks.'):
    rows, columns = shape[-2:]
    # `region` holds object ids, the other fields hold object sets (bit l for object l).
    first, second = (1, 2) if name.endswith('region') else (2, 4)
    made[..., rows // 4 : rows // 2, :] = first
    made[..., rows // 2 :, columns // 2 :] = second
  return made


def planned(config: ConfigDict) -> float:
  """Return the memory of one device in bytes, estimated by a plan without a compiler."""
  machine = hardware.topology(_TOPOLOGY.value)
  sizes = mesh_sizes(config.mesh, machine.devices)
  return analytic_report(Run.make(config), sizes, machine).memory.total


def kernels(profile: Path, steps: int) -> list[tuple[str, int, float]]:
  """Return (name, calls per step, milliseconds per step) of the kernels on the first GPU.

  Sorted by time, the most expensive first.
  """
  times: collections.Counter = collections.Counter()
  spent: collections.Counter = collections.Counter()
  planes = [p for p in jax.profiler.ProfileData.from_file(str(profile)).planes if 'GPU' in p.name]
  for line in planes[0].lines if planes else ():
    for event in line.events if 'Stream' in line.name else ():
      # Kernels of the same kind differ only in a numeric suffix.
      name = event.name.rstrip('_.0123456789')
      times[name] += 1
      spent[name] += event.duration_ns / 1e6
  return [(name, times[name] // steps, ms / steps) for name, ms in spent.most_common()]


def table(config: ConfigDict, figures: dict[str, Any]) -> Table:
  """Return a table of the measurements."""
  model, data = config.model, config.data
  made = Table('', figures['device'], title=f'{config.task}, batch {data.batch_size}')
  planned, held = figures['planned_gb'], figures.get('memory_gb')
  for name, cell in (
    ('remat', model.remat),
    ('step, median', f'{1e3 * figures["step_s_p50"]:.1f} ms'),
    ('step, 90th percentile', f'{1e3 * figures["step_s_p90"]:.1f} ms'),
    ('samples/s', f'{figures["samples_per_s"]:.2f}'),
    ('MFU', f'{figures["mfu"]:.1%}'),
    ('wait for data', f'{figures["data_wait"]:.2%}'),
    ('peak memory', f'{held:.1f} GB' if held else 'unknown'),
    ('planned memory', f'{planned:.1f} GB' + (f' ({planned / held - 1:+.1%})' if held else '')),
  ):
    made.add_row(name, cell)
  return made


def profile_table(costs: list[tuple[str, int, float]], whole: float) -> Table:
  """Return a table of the most expensive kernels."""
  made = Table('kernel', 'calls per step', 'ms per step', 'share', title='Most expensive kernels')
  for name, count, ms in costs:
    made.add_row(name[:70], str(count), f'{ms:.1f}', f'{ms / whole:.1%}')
  return made


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
