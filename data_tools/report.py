"""The report of a preparation: `report.json` to reckon with, `report.html` to look at.

The HTML file holds everything it shows and loads nothing.
"""

import collections
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from data_tools.tally import Tally
from ttm_jax.report import pictures

TEMPLATE = 'report.html.j2'
BARS = 12


@dataclasses.dataclass(frozen=True)
class Bar:
  """One bar of a distribution: its label, its count, and its length from 0 to 1."""

  label: str
  count: int
  share: float


def summary(tally: Tally, seconds: float, what: Mapping[str, Any]) -> dict[str, Any]:
  """All numbers of a job.

  Args:
    tally: of the whole job.
    seconds: that this run took; a job that was interrupted took longer.
    what: the options of the job.
  """
  reasons = collections.Counter(entry['reason'] for entry in tally.rejected)
  objects = collections.Counter(clip['objects'] for clip in tally.clips)
  unreadable = collections.Counter(_kind(why) for why in tally.unused.values())
  return {
    'videos': {
      'in': len(tally.videos),
      'unused': len(tally.unused),
      'too_short': len(tally.short),
      'reasons': dict(unreadable.most_common()),
    },
    'windows': {
      'in': tally.windows,
      'accepted': len(tally.clips),
      'rejected': len(tally.rejected),
      'reasons': dict(reasons.most_common()),
    },
    'clips': dict(collections.Counter(clip['split'] for clip in tally.clips)),
    'objects_made_background': dict(tally.backgrounded),
    'objects_per_clip': dict(sorted(objects.items())),
    'scores': {name: _statistics(values) for name, values in _scores(tally).items()},
    'seconds': round(seconds, 2),
    'options': dict(what),
    'sources': tally.videos,
    'rejections': tally.rejected,
  }


def write(folder: Path, tally: Tally, seconds: float, what: Mapping[str, Any]) -> dict[str, Any]:
  """Writes both files, and returns the summary."""
  found = summary(tally, seconds, what)
  text = json.dumps(found, indent=2, ensure_ascii=False)
  pictures.write_atomically(folder / 'report.json', (text + '\n').encode())
  pictures.write_atomically(folder / 'report.html', page(tally, found).encode())
  return found


def page(tally: Tally, found: Mapping[str, Any]) -> str:
  """The HTML of a report."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  charts = {'objects a clip': _bars(found['objects_per_clip'].items())}
  charts |= {name: _histogram(values) for name, values in _scores(tally).items()}
  windows = collections.Counter(_windows(how) for how in tally.videos.values())
  charts['windows a video'] = _bars(sorted(windows.items()))
  return environment.get_template(TEMPLATE).render(
    found=found,
    charts=charts,
    accepted=[s for s in tally.strips if not s['reason']],
    rejected=[s for s in tally.strips if s['reason']],
  )


def _scores(tally: Tally) -> dict[str, list[float]]:
  values: dict[str, list[float]] = {}
  for clip in tally.clips:
    for name, value in clip['scores'].items():
      values.setdefault(name, []).append(value)
  return values


def _statistics(values: Iterable[float]) -> dict[str, float]:
  array = np.array(list(values))
  names = ('least', 'quarter', 'median', 'three_quarters', 'most')
  found = dict(zip(names, np.quantile(array, [0, 0.25, 0.5, 0.75, 1]).tolist(), strict=True))
  return {'mean': float(array.mean()), **found}


def _histogram(values: list[float]) -> list[Bar]:
  counts, edges = np.histogram(values, min(BARS, max(1, len(set(values)))))
  labels = [f'{low:.3g} to {high:.3g}' for low, high in itertools.pairwise(edges)]
  return _bars(zip(labels, counts.tolist(), strict=True))


def _bars(counted: Iterable[tuple[Any, int]]) -> list[Bar]:
  pairs = list(counted)
  most = max((count for _, count in pairs), default=1) or 1
  return [Bar(str(label), count, count / most) for label, count in pairs]


def _windows(how: str) -> int:
  found = re.search(r'(\d+) windows', how)
  return int(found[1]) if found else 0


def _kind(why: str) -> str:
  """What a complaint says without the names and numbers that are special to it."""
  text = why.split(': ', 1)[-1]
  return re.sub(r'\d+(\.\d+)?', 'N', re.sub(r'/\S+', 'FILE', text)).split(';')[0]
