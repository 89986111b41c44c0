"""What an evaluation looks like: a page with tables, loss curves and samples, and its figures."""

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
from ttm_jax.report.curves import Chart
from ttm_jax.report.gallery import Panel, Row, Table, write_gallery

NAMES = {
  'iou': 'IoU',
  'direction': 'direction right',
  'as_told': 'motion as told',
  'psnr': 'PSNR (dB)',
  'ssim': 'SSIM',
  'adherence': 'adherence (IoU)',
}

# Name in a chart by key in metrics.jsonl.
_CURVES = {
  'training': 'train/loss',
  'held-out': 'validation/loss',
  'fixed training records': 'train_subset/loss',
}


def tables(evaluation: Evaluation) -> list[Table]:
  """The figures as tables."""
  return [
    _table('Trajectories', evaluation.motion),
    _table('Videos', evaluation.video),
  ]


def _table(caption: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
  columns = list(next(iter(rows.values())))
  cells = [
    [name, *(None if math.isnan(row[c]) else row[c] for c in columns)] for name, row in rows.items()
  ]
  return Table(caption, ['', *(NAMES[c] for c in columns)], cells)


def write_metrics(path: Path, evaluation: Evaluation, more: Mapping[str, Any]) -> None:
  """The figures as JSON; what could not be measured is null."""
  figures = {'clips': len(evaluation.clips), 'motion': evaluation.motion, 'video': evaluation.video}
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
  """The page: tables, the loss curves of the runs, and the first samples side by side.

  Args:
    runs: run directories by the name their curve shall bear.
  """
  rows = []
  for i, clip in enumerate(evaluation.clips[:samples]):
    given = clip.video[0]
    masks = trajectory.render(clip.ids[:1], palette)[0]
    pictures = {
      'picture': given,
      'masks': masks,
      'trajectory': trajectory.render(evaluation.trajectories[i], palette),
      'video': evaluation.chained[i],
      'video from the true trajectory': evaluation.from_truth[i],
      'true trajectory': trajectory.render(clip.ids, palette),
      'truth': clip.video,
    }
    texts = {'caption': clip.caption, 'motion': clip.motion, 'objects': '; '.join(clip.prompts)}
    rows.append(Row(clip.key, texts, [Panel(name, p, fps) for name, p in pictures.items()]))
  write_gallery(path, title, intro, tables(evaluation), charts(runs), rows)


def charts(runs: Mapping[str, epath.PathLike]) -> list[Chart]:
  """Training and held-out loss of each run, from its metrics.jsonl."""
  made = []
  for name, run in runs.items():
    lines = read_metrics(run)
    series = {
      label: [(x['step'], x[key]) for x in lines if json_lines.is_number(x.get(key))]
      for label, key in _CURVES.items()
    }
    made.append(Chart(f'Loss of {name}', {k: v for k, v in series.items() if v}, log=True))
  return made


def read_metrics(run: epath.PathLike) -> list[dict[str, float]]:
  """The lines of a run's metrics.jsonl in order of step; empty where there is no such file.

  Steps that a resumed run did again count once, as last. Damaged lines are left out.
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
  """Panels for an animation: picture, trajectory, video and truth, chosen clips in rows."""

  def column(videos):
    stacked = np.concatenate([np.asarray(videos[i]) for i in chosen], axis=1)
    return stacked.repeat(2, 1).repeat(2, 2)

  clips = evaluation.clips
  still = [np.broadcast_to(clip.video[:1], clip.video.shape) for clip in clips]
  return [
    ('picture', column(still)),
    ('trajectory', column([trajectory.render(ids, palette) for ids in evaluation.trajectories])),
    ('video', column(evaluation.chained)),
    ('truth', column([clip.video for clip in clips])),
  ]
