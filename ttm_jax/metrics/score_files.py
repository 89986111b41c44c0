"""Write a scored folder, and read it to compare others with it.

    scores.json         numbers, intervals, differences, values by clip
    rows.safetensors    what the metrics measured, float64 [S, N, D] by system and metric
    videos/             the videos, KEY__SEED.mp4 (`scored_videos.stem_of`)

Rows are exact; the videos are compressed for browsers, so that scoring them again gives slightly
different numbers.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ttm_jax.atomic import new_file, write_text
from ttm_jax.errors import InputError
from ttm_jax.json_file import read_object
from ttm_jax.metrics.base import Metric
from ttm_jax.metrics.intervals import Interval
from ttm_jax.metrics.scoring import Measured, Scores
from ttm_jax.tensor_file import save_tensors

SCORES, ROWS, VIDEOS = 'scores.json', 'rows.safetensors', 'videos'
FORMAT = 1
_REMEDY = 'score it again'


@dataclasses.dataclass(frozen=True)
class ScoredFolder:
  """The first system of a scored folder.

  Attributes:
    folder: the folder.
    measured: its rows, under the name of the folder.
    protocols: protocol of each metric by name.
    shape: frames, height and width.
  """

  folder: Path
  measured: Measured
  protocols: dict[str, str]
  shape: tuple[int, int, int]

  def check(self, metrics: Sequence[Metric], shape: tuple[int, int, int]) -> None:
    """Check that its rows can be compared.

    Args:
      metrics: metrics to compare by.
      shape: frames, height and width of the other videos.

    Raises:
      InputError: it was scored at another size, or lacks a metric, or measured it otherwise.
    """
    if self.shape != shape:
      raise InputError(
        f'{self.folder} was scored at frames, height, width {self.shape}, not {shape}: score both'
        ' at one size'
      )
    for metric in metrics:
      if metric.name not in self.protocols:
        raise InputError(
          f'{self.folder} was not scored by {metric.name}: score it with --metrics that include'
          f' {metric.name}, or leave it out here'
        )
      if self.protocols[metric.name] != metric.protocol:
        raise InputError(
          f'{self.folder} measured {metric.name} by another protocol'
          f' ({self.protocols[metric.name]}): score it again'
        )


def is_scored(folder: Path) -> bool:
  """Return whether a folder has scores of this module."""
  return (folder / SCORES).is_file()


def videos_of(folder: Path) -> Path:
  """Return the folder of videos: that of a scored folder, or the folder itself."""
  return folder / VIDEOS if is_scored(folder) else folder


def write_scores(
  out: Path,
  scores: Scores,
  objects: Sequence[int],
  shape: tuple[int, int, int],
  notes: Sequence[str],
) -> None:
  """Write scores.json and rows.safetensors.

  Args:
    out: folder.
    scores: the numbers.
    objects: number of objects of each clip.
    shape: frames, height and width that were scored.
    notes: what is printed under the table.

  Raises:
    OSError: a file cannot be written.
  """
  first = scores.systems[0]
  values = {
    'format': FORMAT,
    'shape': list(shape),
    'notes': list(notes),
    'draws': scores.draws,
    'level': scores.level,
    'metrics': {
      m.name: {
        'title': m.title,
        'higher_is_better': m.higher_is_better,
        'protocol': m.protocol,
        'least': m.least,
      }
      for m in scores.metrics
    },
    'clips': [
      {'key': key, 'objects': count} for key, count in zip(first.keys, objects, strict=True)
    ],
    'systems': [
      {
        'name': system.name,
        'seeds': list(system.seeds),
        'scores': {
          m.name: {
            **_numbers(scores.numbers[index][m.name]),
            'clips': system.valued(m.name),
            'few': scores.few(index, m),
          }
          for m in scores.metrics
        },
        # By metric, one list per clip with a value per seed; only of metrics that are means.
        'by_clip': {
          name: _finite(array[..., 0].T.tolist())
          for name, array in system.rows.items()
          if array.shape[-1] == 1
        },
      }
      for index, system in enumerate(scores.systems)
    ],
    'against': None if scores.against is None else scores.systems[scores.against].name,
    'differences': {name: _numbers(number) for name, number in scores.differences.items()},
  }
  with new_file(out / ROWS) as partial:
    tensors = {
      f'{index}/{name}': array
      for index, system in enumerate(scores.systems)
      for name, array in system.rows.items()
    }
    save_tensors(partial, tensors)
  write_text(out / SCORES, json.dumps(values, indent=1) + '\n')


def read_scored(folder: Path) -> ScoredFolder:
  """Read the first system of a scored folder.

  Raises:
    InputError: a file is missing or damaged.
  """
  values = read_object(folder / SCORES, _REMEDY)
  try:
    if values['format'] != FORMAT:
      raise ValueError(f'format {values["format"]!r:.50}')
    system = values['systems'][0]
    seeds = tuple(int(seed) for seed in system['seeds'])
    keys = tuple(_text(clip['key']) for clip in values['clips'])
    protocols = {m: _text(about['protocol']) for m, about in values['metrics'].items()}
    frames, height, width = (int(side) for side in values['shape'])
    arrays = safetensors.numpy.load_file(folder / ROWS)
    rows = {metric: arrays[f'0/{metric}'] for metric in protocols}
    for array in rows.values():
      if array.ndim != 3 or array.dtype != np.float64 or array.shape[:2] != (len(seeds), len(keys)):
        raise ValueError(f'rows are {array.dtype} {array.shape}')
    if not keys or len(set(keys)) < len(keys):
      raise ValueError('the keys of the clips repeat, or there are none')
  except (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError),
    *(OSError, safetensors.SafetensorError),
  ) as error:
    raise InputError(f'{folder}: its scores are damaged ({error}); {_REMEDY}') from error
  measured = Measured(str(folder), keys, seeds, rows)
  return ScoredFolder(folder, measured, protocols, (frames, height, width))


def _text(value: Any) -> str:
  if not isinstance(value, str):
    raise TypeError(f'{value!r:.50} is not a text')
  return value


def _numbers(number: Interval) -> dict[str, float | None]:
  return {name: _finite(x) for name, x in dataclasses.asdict(number).items()}


def _finite(value: Any) -> Any:
  """Return lists of numbers with None for NaN and Inf."""
  if isinstance(value, list):
    return [_finite(x) for x in value]
  return value if math.isfinite(value) else None
