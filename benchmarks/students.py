"""Measure what few steps, solvers, savings and students cost in quality, on validation scenes.

    python -m benchmarks.students --clips CLIPS --runs runs/demo/stage1 runs/demo/stage2 \\
        --student "4 steps" runs/student1 runs/student2 --student "stage 2 alone" - runs/student2

Each --runs is a trained pair, the teacher. Give it once for each training seed, and each student as
often, in the same order; `-` is the teacher's run of that stage. Both stages are sampled alike. Few
steps are evenly spaced in time, as those of students; 10 and 50 are as configured.

Columns: network passes and milliseconds of a video, both stages, without compilation (of a CPU its
processor time, of an accelerator wall time); IoU and motion accuracy (direction) of the
trajectories of stage 1; adherence, PSNR and the Fréchet distance of pooled pixels of the videos of
both stages. Intervals are those of `ttm_jax.evaluate`: over clips and, with several seeds, over
runs. Bold numbers differ from the first row.

The result is one JSON file for `benchmarks.page`, written anew after each row.
"""

import argparse
import copy
import dataclasses
import datetime
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ttm_jax.arguments import command_parser
from ttm_jax.atomic import write_text
from ttm_jax.configs.distill import few_steps
from ttm_jax.data.clips import Clips
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError, front_door
from ttm_jax.inference.cli_args import check_seed
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.metrics.base import Sample, mean_of_rows
from ttm_jax.metrics.defaults import BATCH, DRAWS
from ttm_jax.metrics.evaluation import batches, check, motion_row, noise_seed, request_of
from ttm_jax.metrics.intervals import bootstrap, bootstrap_difference, table_cell
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make
from ttm_jax.parallel.compilation_cache import keep_programs
from ttm_jax.report.progress import progress_bar
from ttm_jax.training.denoiser import Denoiser
from ttm_jax.training.orbax_errors import hush

RESULT = Path(__file__).parent / 'results' / 'students.json'
METRICS = make(('adherence_color', 'psnr', 'pooled_frechet'), MetricOptions())
MOTION = 'iou', 'direction'
HEADS = 'IoU', 'direction', 'adherence', 'PSNR, dB', 'Fréchet distance'
DIGITS = 3, 3, 3, 2, 3
MOST_FEW = 5  # Above it, steps are spaced as configured.


@dataclasses.dataclass(frozen=True)
class Setting:
  """How the teacher is sampled.

  Attributes:
    name: first cell of the row.
    steps: number of steps.
    solver: solver; None as configured.
    savings: see `training.savings`.
    guided: whether the row needs guidance.
  """

  name: str
  steps: int
  solver: str | None = None
  savings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  guided: bool = False


SETTINGS = (
  *(Setting(f'teacher, {steps} steps', steps) for steps in (50, 10, 4, 2)),
  Setting('teacher, 1 step', 1),
  *(
    Setting(f'{name}, {steps} steps', steps, name)
    for name in ('unipc', 'dpmpp')
    for steps in (10, 5)
  ),
  Setting('50 steps, guidance in .2 to .8', 50, None, {'guidance_interval': (0.2, 0.8)}, True),
  Setting('50 steps, guidance every 3', 50, None, {'guidance_every': 3}, True),
  *(Setting(f'50 steps, reuse {c}', 50, None, {'reuse': c}) for c in (0.05, 0.1)),
)

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Row:
  """What was measured of one way to sample.

  Attributes:
    name: first cell.
    passes: network passes of a video.
    milliseconds: of a video.
    rows: float64 [runs, clips, D] of each column in `HEADS`.
  """

  name: str
  passes: float
  milliseconds: float
  rows: tuple[np.ndarray, ...]


def main() -> None:
  """Measure all rows and write them.

  Raises:
    InputError: if a run, the clips or a flag is invalid.
  """
  args = parser().parse_args()
  hush()
  keep_programs('')
  check_seed(args.seed)
  students = students_of(args)
  held_out = Clips(args.clips, 'validation')
  clips = [held_out[i] for i in range(min(args.count, len(held_out)))]
  teachers = [Teacher(*pair) for pair in args.runs]
  chosen = [one for one in SETTINGS if not one.guided or all(t.guided for t in teachers)]
  found: list[Row] = []
  lines: list[list[str]] = []
  with progress_bar('rows', len(chosen) + len(students)) as advance:

    def add(name: str, pipelines: Sequence[Pipeline]) -> None:
      found.append(measured(name, pipelines, clips, args.seed, args.batch))
      lines.append(cells(found[-1], found[0], args.draws))
      write_text(Path(args.out), json.dumps(result(lines, args, len(clips)), indent=1) + '\n')
      advance(1)

    for setting in chosen:
      add(setting.name, [teacher.pipeline(setting) for teacher in teachers])
    for name, pairs in students.items():
      add(f'student, {name}', [Pipeline(Stage(a, STAGE1), Stage(b, STAGE2)) for a, b in pairs])
  print(markdown(table(lines)))


def students_of(args: argparse.Namespace) -> dict[str, list[Pair]]:
  """Return the runs of each student by its name, one pair for each pair of the teacher.

  Raises:
    InputError: if a student is not given as often as the teacher.
  """
  found: dict[str, list[Pair]] = {}
  for name, *runs in args.student:
    pairs = found.setdefault(name, [])
    if len(pairs) < len(args.runs):
      teacher = args.runs[len(pairs)]
      runs = [theirs if ours == '-' else ours for ours, theirs in zip(runs, teacher, strict=True)]
    pairs.append((runs[0], runs[1]))
  for name, pairs in found.items():
    if len(pairs) != len(args.runs):
      raise InputError(
        f'--student {name!r} is given {len(pairs)} times, and --runs {len(args.runs)} times: give'
        ' one student for each pair of runs, in the same order'
      )
  return found


class Teacher:
  """A pair of runs, sampled in several ways; each is read and compiled once for each solver.

  Attributes:
    guided: whether a stage samples with guidance.
  """

  def __init__(self, stage1: str, stage2: str):
    """Raise InputError if a run cannot be loaded."""
    self._runs = ((stage1, STAGE1), (stage2, STAGE2))
    self._key: Any = None
    self._stages: list[Stage] = []
    self.guided = any(stage.denoiser.guides for stage in self._loaded(None, {}))

  def pipeline(self, setting: Setting) -> Pipeline:
    """Return the stages as a setting samples them."""
    stages = self._loaded(setting.solver, setting.savings)
    first, second = (with_steps(stage, setting.steps) for stage in stages)
    return Pipeline(first, second)

  def _loaded(self, solver: str | None, savings: Mapping[str, Any]) -> list[Stage]:
    """Return both stages, compiled for other steps if the setting before had the same programs."""
    if self._key != (solver, savings):
      self._key = solver, savings
      self._stages = [Stage(run, task, sample=savings, solver=solver) for run, task in self._runs]
    return self._stages


def with_steps(stage: Stage, steps: int) -> Stage:
  """Return a stage with another number of steps, evenly spaced if they are few."""
  if steps > MOST_FEW:
    return stage.sampled(steps)
  other, config = copy.copy(stage), copy.deepcopy(stage.denoiser.config)
  space(config.process, steps)
  other.denoiser = Denoiser(config, stage.context)
  other.sampler = stage.sampler.sharing(other.denoiser)
  return other


def space(process: ConfigDict, steps: int) -> None:
  """Space the steps of a process evenly in time, and keep its solver."""
  # The U-Net's names one only where it is not the default.
  solver = {name: value for name, value in process.items() if name == 'solver'}
  few_steps(process, steps)
  process.update(solver)


def measured(
  name: str, pipelines: Sequence[Pipeline], clips: Sequence[Clip], seed: int, batch: int
) -> Row:
  """Return what was measured of the videos of all pairs of runs.

  Args:
    name: first cell of the row.
    pipelines: one for each training seed.
    clips: the clips.
    seed: seed of the noise of the first pair; each later one has the next.
    batch: videos that are generated at once.

  Raises:
    InputError: if a clip cannot be generated.
  """
  found = [of_runs(pipe, clips, seed + i, batch) for i, pipe in enumerate(pipelines)]
  passes, milliseconds = (float(np.mean([one[i] for one in found])) for i in range(2))
  rows = zip(*(columns for _, _, columns in found), strict=True)
  return Row(name, passes, milliseconds, tuple(np.stack(column) for column in rows))


def of_runs(
  pipeline: Pipeline, clips: Sequence[Clip], seed: int, batch: int
) -> tuple[float, float, list[np.ndarray]]:
  """Return network passes and milliseconds of a video, and float64 [clips, D] of each column."""
  check(pipeline, clips)
  batch = min(batch, len(clips))
  stages = [stage for stage in (pipeline.stage1, pipeline.stage2) if stage is not None]
  requests = [request_of(clip) for clip in next(batches(clips, batch))[1]]
  pipeline.videos(requests, pipeline.trajectories(requests, 0), 0)  # Compiles.
  passes: list[int] = []
  samples: list[Sample] = []
  clock = time.process_time if jax.default_backend() == 'cpu' else time.perf_counter
  spent = 0.0
  for first, some in batches(clips, batch):
    requests, noise, begin = [request_of(clip) for clip in some], noise_seed(seed, first), clock()
    ids = pipeline.trajectories(requests, noise)
    videos = pipeline.videos(requests, ids, noise)
    spent += (clock() - begin) / len(some)
    passes.append(sum(stage.sampler.passes for stage in stages))
    kept = some[: len(clips) - first]
    samples += [Sample(*three) for three in zip(kept, videos, ids, strict=False)]
  motion = [motion_row([one.clip], [one.target]) for one in samples]
  columns = [np.array([[row[column]] for row in motion]) for column in MOTION]
  columns += [metric.measure(samples) for metric in METRICS]
  return float(np.mean(passes)), 1000 * spent / len(passes), columns


def cells(row: Row, first: Row, draws: int) -> list[str]:
  """Return the cells of a row; numbers that differ from those of the first row are bold."""
  found = [row.name, f'{row.passes:.1f}', f'{row.milliseconds:.0f}']
  summaries = [mean_of_rows] * len(MOTION) + [metric.summarize for metric in METRICS]
  several = len(row.rows[0]) > 1
  for ours, theirs, summarize, digits in zip(row.rows, first.rows, summaries, DIGITS, strict=True):
    number = bootstrap(ours, summarize, draws, runs=several)
    differs = row is not first and (
      bootstrap_difference(ours, theirs, summarize, draws, runs=several).excludes_zero
    )
    found.append(table_cell(number, differs, digits))
  return found


def table(lines: Sequence[list[str]]) -> dict[str, Any]:
  """Return the table of some rows of cells, as `benchmarks.page` takes it."""
  spent = 'CPU ms' if jax.default_backend() == 'cpu' else 'ms'
  return {'columns': ['', 'passes', spent, *HEADS], 'rows': list(lines)}


def markdown(made: Mapping[str, Any]) -> str:
  """Return a table as Markdown."""
  lines = [made['columns'], ['---'] * len(made['columns']), *made['rows']]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def result(lines: Sequence[list[str]], args: argparse.Namespace, clips: int) -> dict[str, Any]:
  """Return the content of the JSON file."""
  seeds = f'{len(args.runs)} training seeds' if len(args.runs) > 1 else 'one training seed'
  device = jax.devices()[0]
  machine = device.device_kind if device.platform != 'cpu' else f'{os.cpu_count()} CPU cores'
  said = f'{machine}, Python {platform.python_version()}, jax {jax.__version__}'
  return {
    'title': 'Few steps and students',
    'machine': said,
    'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    'content': [
      {'command': command(args), 'skip': 'needs trained runs'},
      f'{clips} validation clips, {seeds}. Passes and time are of a video, both stages, without'
      ' compilation. IoU and direction are of the trajectories of stage 1, the others of the videos'
      ' of both stages. Intervals are 95 %, bold numbers differ from the first row.',
      table(lines),
    ],
  }


def command(args: argparse.Namespace) -> str:
  """Return the command, with the last two parts of absolute paths."""

  def said(path: str) -> str:
    return '/'.join(Path(path).parts[-2:]) if Path(path).is_absolute() else path

  lines = ['python -m benchmarks.students --clips ' + said(args.clips)]
  lines += [f'--runs {" ".join(map(said, pair))}' for pair in args.runs]
  lines += [f'--student "{name}" {" ".join(map(said, runs))}' for name, *runs in args.student]
  lines.append(f'--count {args.count} --seed {args.seed}')
  return ' \\\n    '.join(lines)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('benchmarks.students', __doc__)
  add = made.add_argument
  pair: dict[str, Any] = {'action': 'append'}
  add(
    '--runs',
    nargs=2,
    required=True,
    metavar=('STAGE1', 'STAGE2'),
    help='runs of the teacher; once for each training seed',
    **pair,
  )
  add(
    '--student',
    nargs=3,
    default=[],
    metavar=('NAME', 'STAGE1', 'STAGE2'),
    help='a student, once for each --runs; - is the run of the teacher',
    **pair,
  )
  add('--clips', required=True, help='clips dataset; its validation split is generated')
  add('--count', type=int, default=64, help='number of clips; default 64')
  add('--batch', type=int, default=BATCH, help=f'clips generated at a time; default {BATCH}')
  add('--seed', type=int, default=0, help='seed of the noise; default 0')
  add('--draws', type=int, default=DRAWS, help=f'of the bootstrap; default {DRAWS}')
  add('--out', default=str(RESULT), help='JSON file; default benchmarks/results/students.json')
  return made


if __name__ == '__main__':
  with front_door():
    main()
