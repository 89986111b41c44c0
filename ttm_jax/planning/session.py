"""Run the plan command: plan a run, show the report and write it as JSON."""

import contextlib
import json
from collections.abc import Iterator, Sequence

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ttm_jax.atomic import write_text
from ttm_jax.errors import InputError
from ttm_jax.planning import inputs, table
from ttm_jax.planning.compile import Run
from ttm_jax.planning.hardware import Topology
from ttm_jax.planning.report import Report
from ttm_jax.planning.sampler_report import SamplerReport
from ttm_jax.planning.search import Planner, Setting


def plan(
  config: ConfigDict,
  topology: Topology,
  *,
  clip: str = '',
  sweep: bool = False,
  step: bool = True,
  sampler: bool = True,
  json_file: str = '',
) -> bool:
  """Plan a run and print the report.

  Args:
    config: the configuration of the run.
    topology: the target hardware.
    clip: FRAMESxHEIGHTxWIDTH of the clips in pixels, such as '128x256x256'; '' for the paper's.
    sweep: whether to compare all meshes and remat policies.
    step: whether to plan the train step.
    sampler: whether to plan the sampler.
    json_file: path of the JSON report; '' for none.

  Returns:
    Whether the run fits as configured; with `sweep`, whether any setting fits.

  Raises:
    InputError: the clip size is invalid, the mesh does not divide the devices, batch or heads, or
      nothing is to be planned.
  """
  if not step and (sweep or not sampler):
    raise InputError(
      '--nostep plans the sampler alone: leave out --sweep, which compares train steps, and'
      ' --nosampler'
    )
  # Planning does not use the attached devices, and initializing them may take long.
  jax.config.update('jax_platforms', 'cpu')
  console, errors = Console(), Console(stderr=True)
  run = Run.make(config, inputs.clip_size(clip) if clip else None)
  planner = Planner(topology, lambda what: _waiting(errors, what), sampler)
  setting = planner.setting(run)
  if sweep:
    return _sweep(planner, run, setting, console, json_file)
  if not step:
    alone = planner.sampler(run, setting)
    console.print(table.sampler(alone))
    _write(json_file, [alone])
    return alone.fits
  report = planner.report(run, setting)
  console.print(table.whole(report))
  others: list[Report] = []
  if not report.fits:
    console.print('Does not fit in device memory.', style='bold red')
    found = planner.nearest(run, setting, report)
    if found is None:
      console.print('No similar setting fits: use more devices or a smaller batch.')
    else:
      other, other_report = found
      others.append(other_report)
      console.print(f'Nearest setting that fits: {other.flags(config)}', soft_wrap=True)
      console.print(table.comparison([report, other_report]))
  _write(json_file, [report, *others])
  return report.fits


def _sweep(planner: Planner, run: Run, setting: Setting, console: Console, json_file: str) -> bool:
  reports = []
  for report in planner.sweep(run, setting):
    reports.append(report)
    _write(json_file, reports)  # Keeps results if the sweep is interrupted.
  # Fastest first; settings that do not fit last.
  reports.sort(key=lambda r: (not r.fits, r.times.most))
  console.print(table.comparison(reports))
  return any(r.fits for r in reports)


def _write(json_file: str, reports: Sequence[Report] | Sequence[SamplerReport]) -> None:
  if json_file:
    text = json.dumps([report.to_dict() for report in reports], indent=2) + '\n'
    write_text(json_file, text)


@contextlib.contextmanager
def _waiting(console: Console, what: str) -> Iterator[None]:
  """Show a message with a spinner and the elapsed time; only a line if not on a terminal."""
  if not console.is_terminal:
    console.print(what, soft_wrap=True)
    yield
    return
  columns = SpinnerColumn(), TextColumn('{task.description}'), TimeElapsedColumn()
  with Progress(*columns, console=console, transient=True) as progress:
    progress.add_task(what, total=None)
    yield
