"""Measure pairs of runs on held-out clips beside the lower bound, with paired intervals.

    python -m benchmarks.held_out --clips datasets/films \\
        --pair augmented runs/films_stage1 runs/films_stage2 \\
        --pair plain runs/plain_stage1 runs/plain_stage2

The lower bound repeats the first frame and its masks. For each pair the table has the IoU of stage
1's trajectories over frames 2..T, and the PSNR of the videos from the ground-truth trajectory and
of both stages; then the difference from the lower bound, and of the first two pairs. Intervals are
95 % of a bootstrap over clips, each with all of its noise seeds. `--out FILE` writes the table as
JSON for benchmarks/results/.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ttm_jax.arguments import command_parser
from ttm_jax.atomic import write_text
from ttm_jax.data.clips import Clips
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError, front_door
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.metrics.evaluation import check, generate
from ttm_jax.metrics.intervals import Interval, bootstrap, bootstrap_difference, table_cell
from ttm_jax.metrics.motion import mean_iou
from ttm_jax.metrics.video import psnr

COLUMNS = ('trajectory IoU', 'PSNR (dB), true trajectory', 'PSNR (dB), both stages')
DIGITS = 3, 1, 1
FLOOR = 'first frame and masks repeated (lower bound)'


def main() -> None:
  made = command_parser('benchmarks.held_out', __doc__)
  add = made.add_argument
  add(
    '--pair',
    nargs=3,
    action='append',
    required=True,
    metavar=('NAME', 'STAGE1', 'STAGE2'),
    help='a name, a run of stage 1 and a run of stage 2; repeat it to compare',
  )
  add('--clips', required=True, help='clips dataset')
  add('--split', default='validation', help='dataset split; default validation')
  add('--seeds', type=int, default=4, help='noise seeds of each clip; default 4')
  add('--batch', type=int, default=8, help='clips generated at a time; default 8')
  add('--out', help='JSON file for the table')
  args = made.parse_args()
  for name in ('seeds', 'batch'):
    if getattr(args, name) < 1:
      raise InputError(f'--{name} {getattr(args, name)} must be at least 1')
  held_out = Clips(args.clips, args.split)
  clips = [held_out[i] for i in range(len(held_out))]
  values = {FLOOR: floor(clips)[None]}
  for name, *runs in args.pair:
    pipeline = Pipeline(*(Stage(r, t) for r, t in zip(runs, (STAGE1, STAGE2), strict=True)))
    check(pipeline, clips)
    values[name] = np.stack([measured(pipeline, clips, s, args.batch) for s in range(args.seeds)])
  table = {'columns': ['', *COLUMNS], 'rows': rows(values)}
  for cells in [table['columns'], ['---'] * (1 + len(COLUMNS)), *table['rows']]:
    print(f'| {" | ".join(cells)} |')
  if args.out:
    write_text(Path(args.out), json.dumps(table, indent=1) + '\n')


def floor(clips: Sequence[Clip]) -> np.ndarray:
  """Return the values of repeated first frames and masks, float64 [N, 3]."""
  found = []
  for clip in clips:
    still = psnr(clip.video, np.broadcast_to(clip.video[:1], clip.video.shape))
    masks = mean_iou(np.ascontiguousarray(np.broadcast_to(clip.ids[:1], clip.ids.shape)), clip.ids)
    found.append([masks, still, still])
  return np.array(found)


def measured(pipeline: Pipeline, clips: Sequence[Clip], seed: int, batch: int) -> np.ndarray:
  """Return the values of a pair of runs for one noise seed, float64 [N, 3]."""
  found = []
  # Seeds of batches are next to each other, see `evaluation.noise_seed`.
  for made in generate(pipeline, clips, seed * 1_000, batch):
    groups = zip(made.clips, made.trajectories, made.from_truth, made.chained, strict=True)
    found += [
      [mean_iou(ids, clip.ids), psnr(clip.video, true), psnr(clip.video, both)]
      for clip, ids, true, both in groups
    ]
  return np.array(found)


def rows(values: dict[str, np.ndarray]) -> list[list[str]]:
  """Return the rows of the table.

  Args:
    values: float64 [S, N, 3] of each system; the first is the lower bound.
  """
  names = list(values)
  made = [[name, *_cells(bootstrap(x, _mean) for x in _each(values[name]))] for name in names]
  pairs = [(name, names[0], f'{name}, above the lower bound') for name in names[1:]]
  if len(names) > 2:
    pairs.append((names[1], names[2], f'{names[1]} minus {names[2]}'))
  for a, b, title in pairs:
    both = zip(_each(values[a]), _each(values[b]), strict=True)
    made.append([title, *_cells(bootstrap_difference(x, y, _mean) for x, y in both)])
  return made


def _each(values: np.ndarray) -> list[np.ndarray]:
  return [values[..., i : i + 1] for i in range(values.shape[-1])]


def _mean(values: np.ndarray) -> float:
  return float(values.mean())


def _cells(intervals) -> list[str]:
  found: list[Interval] = list(intervals)
  return [table_cell(x, digits=digits) for x, digits in zip(found, DIGITS, strict=True)]


if __name__ == '__main__':
  with front_door():
    main()
