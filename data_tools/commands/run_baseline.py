"""What `python -m data_tools.run_baseline` does."""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from data_tools.arguments import is_count, parse_size
from ttm_jax import atomic, outputs
from ttm_jax.data.clips import Clips
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError, printable
from ttm_jax.json_file import read_object
from ttm_jax.media.video_io import write_video
from ttm_jax.metrics.scored_videos import stems_of
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.baselines.generator import Generator, versions
from ttm_jax.pytorch.baselines.models import BASELINES, Baseline, Plan

SETTINGS = 'baseline.json'


_MOST_SEEDS = 1000


# Returns the video of a clip, see `Generator.__call__`.
Generate = Callable[[np.ndarray, str, Plan, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
  """One video to generate.

  Attributes:
    index: number of the clip in its dataset.
    seed: seed of the noise.
    path: the file.
  """

  index: int
  seed: int
  path: Path


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.run_baseline`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  out, model = Path(args.out), BASELINES[args.model]
  seeds, part, size = parse_seeds(args.seeds), parse_part(args.part), _size(args, model)
  for name in ('steps', 'count'):
    if (value := getattr(args, name)) is not None and value < 1:
      raise InputError(f'--{name} {value} must be at least 1')
  reads = {'--clips': outputs.files_of(args.clips), '--weights': args.weights}
  outputs.check('--out', folders=[out], reads=reads, needed=2**24)
  clips = Clips(args.clips, args.split)
  count = min(args.count or len(clips), len(clips))
  jobs = jobs_of(clips, count, seeds, out)[part[0] - 1 :: part[1]]
  weights = args.weights or model.weights
  settings = {
    'model': args.model,
    'weights': weights,
    'dtype': args.dtype,
    'steps': args.steps or model.steps,
    'guidance': model.guidance,
    'arguments': dict(model.arguments),
    'negative': args.negative,
    'size': args.size,
    'split': args.split,
  }
  check_settings(out, settings)
  left = [job for job in jobs if not job.path.exists()]
  if left:
    source = ModelSource(weights, args.device, args.dtype, offline=args.offline)
    generate = Generator.load(model, source, args.offload, args.steps, args.negative)
    with outputs.writing(out, 'free space, then run the same command again'):
      generate_all(clips, model, left, len(jobs), size, generate, out, settings)
  print(printable(f'{out}: {len(jobs)} videos of {count} clips'))


def jobs_of(clips: Clips, count: int, seeds: Sequence[int], out: Path) -> list[Job]:
  """Return the videos of the first `count` clips, with all seeds of a clip in a row.

  Raises:
    InputError: if two clips would have one file name, or a record is damaged.
  """
  try:
    keys = [clips.record(index)['key'].decode() for index in range(count)]
  except UnicodeDecodeError as error:
    raise InputError(f'a key of {clips.records} is not UTF-8; write the dataset again') from error
  stems = {key: stem for stem, key in stems_of(keys).items()}
  return [
    Job(index, seed, out / f'{stems[key]}__{seed}.mp4')
    for index, key in enumerate(keys)
    for seed in seeds
  ]


def generate_all(
  clips: Sequence[Clip] | Clips,
  model: Baseline,
  jobs: Sequence[Job],
  total: int,
  size: tuple[int, int] | None,
  generate: Generate,
  out: Path,
  settings: dict[str, Any],
) -> None:
  """Generate and write the videos, and record each new shape of clips in the settings.

  Args:
    clips: the clips.
    model: the model.
    jobs: the videos to generate.
    total: number of videos, also of those that exist, for the progress bar.
    size: (H, W) to generate; None for the one nearest to the clip.
    generate: generates one video.
    out: folder of the settings.
    settings: as in `check_settings`.

  Raises:
    OSError: if a file cannot be written.
  """
  bar = tqdm.tqdm(total=total, initial=total - len(jobs), desc=settings['model'], unit=' videos')
  shapes = _read(out).get('shapes', {})
  with bar:
    for job, clip in _with_clips(clips, jobs):
      plan = Plan.of(model, clip.ids.shape, clip.fps, size)
      name = f'{"x".join(map(str, plan.clip))} at {clip.fps:g}'
      if name not in shapes:
        shapes[name] = {**dataclasses.asdict(plan), 'generated_fps': model.fps}
        content = {**settings, 'versions': versions(), 'shapes': shapes}
        atomic.write_text(out / SETTINGS, json.dumps(content, indent=1))
      video = generate(clip.video[0], clip.caption, plan, job.seed)
      write_video(job.path, video, clip.fps)
      bar.update()


def check_settings(out: Path, settings: dict[str, Any]) -> None:
  """Raise InputError if the folder has videos that were generated with other settings."""
  before = _read(out)
  for name, value in settings.items():
    if before and before.get(name) != value:
      raise InputError(
        f'{out}: its videos were generated with {name} {before.get(name)!r}, not {value!r}; name'
        ' another --out'
      )


def _read(out: Path) -> dict[str, Any]:
  path = out / SETTINGS
  return read_object(path, f'remove {out}, or name another --out') if path.exists() else {}


def _with_clips(clips: Sequence[Clip] | Clips, jobs: Sequence[Job]) -> Iterator[tuple[Job, Clip]]:
  """Yield each job with its clip; decode a clip once for all of its seeds in a row."""
  index, clip = -1, None
  for job in jobs:
    if clip is None or job.index != index:
      index, clip = job.index, clips[job.index]
    yield job, clip


def parse_seeds(text: str) -> list[int]:
  """Parse '0,1,2' into different seeds.

  Raises:
    InputError: if the text has another form.
  """
  parts = text.split(',')
  if not all(part.isdecimal() and len(part) < 10 for part in parts) or len(parts) > _MOST_SEEDS:
    raise InputError(f'--seeds {text[:80]}: write whole numbers with commas, as in 0,1,2')
  seeds = [int(part) for part in parts]
  if len({*seeds}) < len(seeds):
    raise InputError(f'--seeds {text[:80]}: a seed occurs twice; remove one')
  return seeds


def parse_part(text: str) -> tuple[int, int]:
  """Parse '2/4' into (2, 4).

  Raises:
    InputError: if the text has another form, or the first number exceeds the second.
  """
  number, _, of = text.partition('/')
  if not (is_count(number) and is_count(of) and int(number) <= int(of)):
    raise InputError(f'--part {text}: write PART/PARTS, from 1/4 to 4/4 for four processes')
  return int(number), int(of)


def _size(args: argparse.Namespace, model: Baseline) -> tuple[int, int] | None:
  if args.size is None:
    return None
  size = parse_size(args.size)
  if not model.multiple:
    if size != model.size:
      raise InputError(f'--size {args.size}: {args.model} takes {_by(model.size)} only')
  elif size[0] % model.multiple or size[1] % model.multiple:
    near = tuple(max(1, round(side / model.multiple)) * model.multiple for side in size)
    raise InputError(
      f'--size {args.size}: sides of {args.model} are multiples of {model.multiple}; give'
      f' {_by(near)}'
    )
  elif math.prod(size) > 4 * math.prod(model.size):
    raise InputError(
      f'--size {args.size}: {args.model} was trained at {_by(model.size)}; give at most four times'
      ' its area'
    )
  return size


def _by(size: Sequence[int]) -> str:
  return 'x'.join(map(str, size))
