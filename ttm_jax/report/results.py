"""Write the results of an evaluation: metrics as JSON, and a page with tables, curves, samples."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from ttm_jax import json_lines, trajectory
from ttm_jax.atomic import write_text
from ttm_jax.metrics.evaluation import Evaluation
from ttm_jax.metrics.registry import METRICS, MetricOptions
from ttm_jax.report.curves import Chart
from ttm_jax.report.gallery import Panel, Row, Table, Within, write_gallery

NAMES = {
  'iou': 'IoU',
  'direction': 'motion accuracy (direction)',
  'all_motions': 'motion accuracy (all)',
  'psnr': 'PSNR (dB)',
  'ssim': 'SSIM',
  'adherence': 'adherence (IoU)',
}

# Name in the loss chart -> key in metrics.jsonl.
_CURVES = {
  'training': 'train/loss',
  'validation': 'validation/loss',
  'fixed training records': 'train_subset/loss',
}


def tables(evaluation: Evaluation) -> list[Table]:
  """Return the motion and video metrics as tables."""
  known = evaluation.intervals
  return [
    _table('Trajectories', evaluation.motion, known.get('motion', {})),
    _table('Videos', evaluation.video, known.get('video', {})),
  ]


def _table(
  caption: str,
  rows: Mapping[str, Mapping[str, float]],
  ends: Mapping[str, Mapping[str, tuple[float, float]]],
) -> Table:
  columns = list(next(iter(rows.values())))

  def cell(name: str, column: str) -> Any:
    value, around = rows[name][column], ends.get(name, {}).get(column)
    if math.isnan(value):
      return None
    return value if around is None or not math.isfinite(value) else Within(value, *around)

  cells = [[name, *(cell(name, column) for column in columns)] for name in rows]
  return Table(caption, ['', *(NAMES[c] for c in columns)], cells)


def write_metrics(path: Path, evaluation: Evaluation, more: Mapping[str, Any]) -> None:
  """Write the metrics as JSON, with null for values that are NaN or Inf.

  Args:
    path: JSON file.
    evaluation: metrics and clips.
    more: further values to write; they replace equal keys.
  """
  figures = {
    'clips': len(evaluation.clips),
    'motion': evaluation.motion,
    'video': evaluation.video,
    'intervals': evaluation.intervals,
  }
  write_text(path, json.dumps(_finite({**figures, **more}), indent=2) + '\n')


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _finite(v) for k, v in value.items()}
  return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(
  path: Path,
  title: str,
  intro: str,
  evaluation: Evaluation,
  fps: float,
  palette: str,
  runs: Mapping[str, epath.PathLike],
  samples: int = 16,
) -> None:
  """Write the HTML report: tables, loss curves of the runs, and the first samples side by side.

  Args:
    path: HTML file.
    title: heading of the page.
    intro: plain text; an empty line starts a new paragraph.
    evaluation: metrics and generated samples.
    fps: frames per second of the animations.
    palette: palette that trajectories are rendered with, a name in `trajectory.PALETTES`.
    runs: run directories by the name of their loss chart.
    samples: number of clips to show.
  """
  rows = []
  for i, clip in enumerate(evaluation.clips[:samples]):
    given = clip.video[0]
    masks = trajectory.render(clip.ids[:1], palette)[0]
    pictures = {
      'image': given,
      'masks': masks,
      'trajectory': trajectory.render(evaluation.trajectories[i], palette),
      'video': evaluation.chained[i],
      'video from the ground-truth trajectory': evaluation.from_truth[i],
      'ground-truth trajectory': trajectory.render(clip.ids, palette),
      'ground truth': clip.video,
    }
    texts = {'caption': clip.caption, 'motion': clip.motion, 'objects': '; '.join(clip.prompts)}
    rows.append(Row(clip.key, texts, [Panel(name, p, fps) for name, p in pictures.items()]))
  write_gallery(path, title, intro, tables(evaluation), charts(runs), rows)


def charts(runs: Mapping[str, epath.PathLike]) -> list[Chart]:
  """Return charts of the losses of each run and the metrics of its samples (metrics.jsonl)."""
  made = []
  for name, run in runs.items():
    lines = read_metrics(run)
    series = {
      label: [(x['step'], x[key]) for x in lines if json_lines.is_number(x.get(key))]
      for label, key in _CURVES.items()
    }
    made.append(Chart(f'Loss of {name}', {k: v for k, v in series.items() if v}, log=True))
    for metric, make in METRICS.items():
      points = [(x['step'], x[k]) for x in lines for k in x if k.split('/')[-1] == metric]
      if points:
        title = make(MetricOptions()).title
        made.append(Chart(f'{title} of samples, {name}', {metric: points}))
  return made


def read_metrics(run: epath.PathLike) -> list[dict[str, float]]:
  """Return the records of a run's metrics.jsonl in order of step; empty if there is no such file.

  If a resumed run repeated a step, only its last record is kept. Corrupt lines are skipped.
  """
  lines: dict[tuple[int, bool], dict[str, float]] = {}
  path = epath.Path(run) / 'metrics.jsonl'
  for line in json_lines.read(path)[0] if path.exists() else []:
    if json_lines.is_number(line.get('step')):
      lines[line['step'], any(key.startswith('train/') for key in line)] = line
  return [lines[key] for key in sorted(lines)]


def montage(
  evaluation: Evaluation, palette: str, chosen: Sequence[int]
) -> list[tuple[str, np.ndarray]]:
  """Return (title, frames) columns of an animation: image, trajectory, video and ground truth.

  Args:
    evaluation: generated samples.
    palette: palette that trajectories are rendered with.
    chosen: indices of the clips, one row each; all of one size.

  Returns:
    Frames are uint8 [T, 2 * rows * H, 2 * W, 3]: images are enlarged by a factor of two.
  """

  def column(videos):
    stacked = np.concatenate([np.asarray(videos[i]) for i in chosen], axis=1)
    return stacked.repeat(2, 1).repeat(2, 2)

  clips = evaluation.clips
  still = [np.broadcast_to(clip.video[:1], clip.video.shape) for clip in clips]
  return [
    ('image', column(still)),
    ('trajectory', column([trajectory.render(ids, palette) for ids in evaluation.trajectories])),
    ('video', column(evaluation.chained)),
    ('ground truth', column([clip.video for clip in clips])),
  ]
