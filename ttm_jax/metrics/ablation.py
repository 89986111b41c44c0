"""The rows of an ablation table: which runs they need, and their scores over seeds and clips."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from ttm_jax.atomic import new_file
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError, nearest
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Stage
from ttm_jax.metrics.base import Metric, Sample
from ttm_jax.metrics.evaluation import request_of
from ttm_jax.metrics.registry import MetricOptions, make
from ttm_jax.settings import load_config

TI2V = 'image_to_video'
TRUE, GENERATED = 'true trajectory', 'generated trajectory'
GIVEN, TRUTH = 'given', 'truth'  # Trajectories that metrics of control can compare with.
BATCH = 32
BASE_RUN = 'base'  # The run that the rows of a seed start from; it is no row.


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run of an ablation.

  Attributes:
    name: row and seed, such as 'both/seed0'.
    row: the row of the table, the name of a stage 1, or BASE_RUN.
    seed: seed of parameters, noise and data order.
    folder: run directory.
    command: module and arguments that train it.
    steps: number of training steps.
  """

  name: str
  row: str
  seed: int
  folder: Path
  command: list[str]
  steps: int

  @property
  def complete(self) -> bool:
    """Whether the checkpoint of the last step exists."""
    return (self.folder / 'checkpoints' / str(self.steps)).exists()


@dataclasses.dataclass(frozen=True)
class Ablation:
  """What to train and how to score it.

  Attributes:
    workdir: folder of all runs and results.
    title: what the table is about.
    rows: names of the rows, in order.
    reference: the row that the others are compared with.
    differences: pairs of rows; the first less the second are the lines of a table of their own.
    seeds: number of seeds per row.
    count: number of validation clips that are scored.
    metrics: the columns.
    clips: clips dataset with a split 'validation'.
    preparation: (name, folder, command) of the datasets to make where they do not exist.
    runs: all runs in the order in which they need each other: those of stage 1, if there are any;
      then, seed by seed, the run that the rows start from, if there is one, and the rows.
    stage1_of: the name of the stage 1 of each row; empty if there is none.
    stage1_seeds: number of seeds per stage 1. Rows of seed i take the one of seed
      i % stage1_seeds.
    compare_with: what metrics of control compare with: GIVEN, the trajectory that a video was
      generated from, or TRUTH, the one of the clip.
  """

  workdir: Path
  title: str
  rows: tuple[str, ...]
  reference: str
  differences: tuple[tuple[str, str], ...]
  seeds: int
  count: int
  metrics: tuple[Metric, ...]
  clips: str
  preparation: tuple[tuple[str, Path, list[str]], ...]
  runs: tuple[Run, ...]
  stage1_of: Mapping[str, str]
  stage1_seeds: int
  compare_with: str

  @classmethod
  def read(
    cls,
    config: ConfigDict,
    workdir: Path,
    seeds: int | None = None,
    rows: Sequence[str] | None = None,
  ) -> 'Ablation':
    """Return the ablation of a configuration (see `configs/ablate_scenes.py`).

    Args:
      config: the configuration.
      workdir: folder of all runs and results.
      seeds: number of seeds; by default as configured.
      rows: the rows to train and score; by default all.

    Raises:
      InputError: a row, its configuration or a metric is unknown, or a number is out of range.
    """
    lines = {row: tuple(line) for row, *line in config.rows}
    known = list(lines)
    for row in rows or ():
      if row not in known:
        raise InputError(f'no row {row!r}{nearest(row, known)}; there are {", ".join(known)}')
    chosen = tuple(row for row in known if not rows or row in rows)
    for row in sum(config.differences, ()):
      if row not in known:
        raise InputError(
          f'config.differences names {row!r}{nearest(row, known)}; there are {", ".join(known)}'
        )
    pairs = tuple((a, b) for a, b in config.differences if {a, b} <= {*chosen})
    count, seeds = config.clips_to_score, config.seeds if seeds is None else seeds
    if min(seeds, count) < 1:
      raise InputError(f'an ablation needs at least 1 seed and 1 clip, got {seeds} and {count}')
    given = {name: config[name] for name in ('clips', 'latents') if config[name]}
    folders = {name: str(workdir / name) for name in config.prepare} | given
    preparation = tuple(
      (name, workdir / name, [part.format(**folders) for part in command])
      for name, command in config.prepare.items()
      if name not in given
    )
    first = {name: tuple(line) for name, *line in config.stage1}
    own = dict(config.stage1_of)
    stage1_of = {row: own.get(row, next(iter(first))) for row in chosen if first}
    for row, name in stage1_of.items():
      if name not in first:
        raise InputError(
          f'row {row!r} takes stage 1 {name!r}{nearest(name, first)}; there are {", ".join(first)}'
        )
    if config.compare_with not in (GIVEN, TRUTH):
      raise InputError(
        f"config.compare_with must be '{GIVEN}' or '{TRUTH}', got {config.compare_with!r}"
      )
    stage1_seeds = min(config.stage1_seeds, seeds)
    jobs = [
      (name, seed, first[name])
      for seed in range(stage1_seeds)
      for name in dict.fromkeys(stage1_of.values())
    ]
    for seed in range(seeds):
      jobs += [(BASE_RUN, seed, tuple(config.base))] if config.base else []
      jobs += [(row, seed, lines[row]) for row in chosen]
    runs = tuple(_run(workdir, row, seed, line, folders) for row, seed, line in jobs)
    return cls(
      workdir,
      config.title,
      chosen,
      config.reference,
      pairs,
      seeds,
      count,
      tuple(make(config.metrics, MetricOptions())),
      folders['clips'],
      preparation,
      runs,
      stage1_of,
      stage1_seeds,
      config.compare_with,
    )

  def run(self, row: str, seed: int) -> Run:
    """Return the run of a row."""
    return next(run for run in self.runs if (run.row, run.seed) == (row, seed))

  def stage1(self, row: str, seed: int) -> Run | None:
    """Return the run of the stage 1 of a row, from whose trajectories videos are made, too."""
    name = self.stage1_of.get(row)
    return None if name is None else self.run(name, seed % self.stage1_seeds)


# Rows of numbers by (row, source of the trajectory, metric): float64 [seeds, clips, D].
Scores = dict[tuple[str, str, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Results:
  """Scores, and videos to look at.

  Attributes:
    clips: the scored clips.
    scores: see `Scores`.
    videos: videos of the first seed for the first clips, by (row, source): uint8
      [shown, T, H, W, 3].
  """

  clips: list[Clip]
  scores: Scores
  videos: dict[tuple[str, str], np.ndarray]


def score(plan: Ablation, clips: Sequence[Clip], shown: int = 12) -> Results:
  """Generate the videos of all runs and score them; what was scored before is read.

  Args:
    plan: the ablation; all of its runs must be complete.
    clips: the clips to generate for.
    shown: number of videos to keep for the report.

  Raises:
    InputError: a run cannot be read, or does not fit the clips.
  """
  scores: Scores = {}
  videos: dict[tuple[str, str], np.ndarray] = {}
  jobs = [(row, seed) for row in plan.rows for seed in range(plan.seeds)]
  for row, seed in tqdm(jobs, 'score', unit='run'):
    run = plan.run(row, seed)
    given = {TRUE: np.stack([clip.ids for clip in clips])}
    if (stage1 := plan.stage1(row, seed)) is not None:
      given[GENERATED] = _trajectories(stage1, clips)
    stage: Stage | None = None
    for source, ids in given.items():
      path = run.folder / f'scores-{source.split()[0]}-{plan.compare_with}.npz'
      saved = _read(path, plan.metrics, len(clips), min(shown, len(clips)))
      if saved is None:
        if plan.compare_with == GIVEN and ids.ndim == 5:
          raise InputError(
            f'row {row!r}: generated optical flow has no objects to compare with; set'
            f" config.compare_with = '{TRUTH}'"
          )
        stage = stage or Stage(run.folder, (STAGE2, TI2V))
        made = _videos(stage, clips, ids, seed)
        aims = ids if plan.compare_with == GIVEN else [None] * len(clips)
        samples = [Sample(c, v, i) for c, v, i in zip(clips, made, aims, strict=True)]
        saved = {metric.name: metric.measure(samples) for metric in plan.metrics}
        saved |= {'videos': made[:shown]}
        _write(path, saved, plan.metrics)
      for metric in plan.metrics:
        key = (row, source, metric.name)
        before = scores.get(key, np.empty((0, *saved[metric.name].shape)))
        scores[key] = np.concatenate([before, saved[metric.name][None]])
      if seed == 0:
        videos[row, source] = saved['videos']
  return Results(list(clips), scores, videos)


def _run(
  workdir: Path, row: str, seed: int, line: tuple[str, ...], folders: Mapping[str, str]
) -> Run:
  name, *changes = line
  folder = workdir / row / f'seed{seed}'
  folders = {**folders, BASE_RUN: str(workdir / BASE_RUN / f'seed{seed}')}
  values = {'data.path': folders['latents'], 'seed': str(seed), 'data.seed': str(seed)}
  values |= {key: value.format(**folders) for key, value in (c.split('=', 1) for c in changes)}
  flags = [
    f'--config={name}',
    f'--workdir={folder}',
    *(f'--config.{key}={value}' for key, value in values.items()),
  ]
  steps = values.get('train.steps')
  configured = int(steps) if steps else load_config(name.partition(':')[0]).train.steps
  return Run(f'{row}/seed{seed}', row, seed, folder, ['ttm_jax.train', *flags], configured)


def _trajectories(run: Run, clips: Sequence[Clip]) -> np.ndarray:
  """Return what stage 1 generates, see `Stage.trajectories`; kept beside the run."""
  path = run.folder / 'trajectories.npz'
  if path.exists():
    with np.load(path, allow_pickle=False) as saved:
      if len(saved['ids']) == len(clips):
        return saved['ids']
  stage = Stage(run.folder, STAGE1)
  ids = np.concatenate(
    [
      stage.trajectories([request_of(clips[i]) for i in places], _noise(run.seed, places))
      for places in _batches(len(clips))
    ]
  )[: len(clips)]
  with new_file(path) as new, new.open('wb') as file:
    np.savez_compressed(file, ids=ids)
  return ids


def _videos(stage: Stage, clips: Sequence[Clip], ids: np.ndarray, seed: int) -> np.ndarray:
  """Return uint8 [N, T, H, W, 3]."""
  needs = stage.denoiser.config.task == STAGE2
  made = [
    stage.generate(
      [request_of(clips[i]) for i in places], _noise(seed, places), ids[places] if needs else None
    )
    for places in _batches(len(clips))
  ]
  return np.concatenate(made)[: len(clips)]


def _batches(count: int) -> list[np.ndarray]:
  """Return the places of clips in batches of one size, so that one program generates all.

  The last batch is filled with the last clip.
  """
  return [
    np.minimum(np.arange(first, first + BATCH), count - 1) for first in range(0, count, BATCH)
  ]


def _noise(seed: int, places: np.ndarray) -> int:
  """Return the seed of the noise of a batch."""
  return seed * 1_000_003 + int(places[0])


def _read(path: Path, metrics: Sequence[Metric], clips: int, shown: int) -> dict | None:
  """Return the scores of a run, or None if some are missing or of another protocol."""
  if not path.exists():
    return None
  with np.load(path, allow_pickle=False) as file:
    saved = {name: file[name] for name in file.files}
  right = len(saved['videos']) == shown and all(
    str(saved.get(f'{m.name}.protocol')) == m.protocol and len(saved[m.name]) == clips
    for m in metrics
  )
  return saved if right else None


def _write(path: Path, saved: dict, metrics: Sequence[Metric]) -> None:
  arrays: dict[str, Any] = {f'{m.name}.protocol': np.array(m.protocol) for m in metrics}
  with new_file(path) as new, new.open('wb') as file:
    np.savez_compressed(file, **arrays, **saved)
