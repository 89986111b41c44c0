"""Report of a preparation job: `report.json` for programs, `report.html` for people.

The HTML file is self-contained.
"""

import collections
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sources import leftovers
from data_tools.sources.leftovers import Leftover
from data_tools.stats import Tally
from ttm_jax import atomic
from ttm_jax.errors import printable
from ttm_jax.report.gallery import environment

TEMPLATE = 'report.html.j2'
BARS = 12
NAMED = 10  # Unused videos named on the console. The report files name all of them.


@dataclasses.dataclass(frozen=True)
class Bar:
  """One bar of a histogram: its label, its count, and its length in [0, 1]."""

  label: str
  count: int
  share: float


def summary(
  tally: Tally, unread: Sequence[Leftover], seconds: float, what: Mapping[str, Any]
) -> dict[str, Any]:
  """Return the content of `report.json`.

  Args:
    tally: statistics of the whole job.
    unread: files of the source that no video uses.
    seconds: duration of this run; earlier, interrupted runs of the job are not included.
    what: options of the job.
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
    'unread': leftovers.as_json(unread),
    'seconds': round(seconds, 2),
    'options': dict(what),
    'sources': tally.videos,
    'rejections': tally.rejected,
  }


def write(
  folder: Path,
  tally: Tally,
  unread: Sequence[Leftover],
  seconds: float,
  what: Mapping[str, Any],
) -> dict[str, Any]:
  """Write `report.json` and `report.html`, and return the summary.

  See `summary` for the arguments.

  Raises:
    OSError: if a file cannot be written.
  """
  found = summary(tally, unread, seconds, what)
  text = json.dumps(found, indent=2, ensure_ascii=False)
  # File names may contain control characters or undecodable bytes; write them as JSON escapes.
  text = ''.join(c if c.isprintable() or c == '\n' else json.dumps(c)[1:-1] for c in text)
  atomic.write_text(folder / 'report.json', text + '\n')
  atomic.write_text(folder / 'report.html', page(tally, found))
  return found


def lines(
  out: Path, tally: Tally, found: Mapping[str, Any], unread: Sequence[Leftover]
) -> list[str]:
  """Return a short summary of the job as lines for the console."""
  windows, videos = found['windows'], found['videos']
  said = [f'{out}: {windows["accepted"]} clips of {windows["in"]} windows of {videos["in"]} videos']
  said += [f'  rejected {count}: {reason}' for reason, count in windows['reasons'].items()]
  named = list(tally.unused.items())
  said += [f'  not used {key}: {why}' for key, why in named[:NAMED]]
  more = collections.Counter(_kind(why) for _, why in named[NAMED:])
  said += [f'  not used {count} more: {why}' for why, count in more.most_common()]
  if tally.short:
    some = ', '.join(tally.short[:5]) + (', ...' if len(tally.short) > 5 else '')
    said.append(f'  too short for a window {len(tally.short)}: {some}')
  for reason, count in found['objects_made_background'].items():
    said.append(f'  objects made background {count}: {reason}')
  said += [f'  {line}' for line in leftovers.lines(unread)]
  return [shown(line) for line in [*said, f'  {out}/report.html']]


def why_none(tally: Tally, found: Mapping[str, Any], file: Path) -> str:
  """Return an error message that gives each reason for an empty dataset, with its count."""
  reasons = []
  examples: dict[str, str] = {}
  for why in tally.unused.values():
    examples.setdefault(_kind(why), why)
  for kind, count in found['videos']['reasons'].items():
    reasons.append(f'{count} {_plural("video", count)} not used ({examples[kind]})')
  for reason, count in found['windows']['reasons'].items():
    detail = next(r['detail'] for r in tally.rejected if r['reason'] == reason)
    said = f'{reason}: {detail}' if detail else reason
    reasons.append(f'{count} {_plural("window", count)} rejected ({said})')
  if count := len(tally.short):
    reasons.append(f'{count} {_plural("video", count)} too short for a window')
  return shown(f'no clip was accepted: {", ".join(reasons)}; see {file}')


def _plural(word: str, count: int) -> str:
  return word if count == 1 else f'{word}s'


def shown(text: object) -> str:
  """Return a text as one printable line, since file names may contain any character."""
  return printable(text).replace('\n', '\\n')


def page(tally: Tally, found: Mapping[str, Any]) -> str:
  """Return the HTML of the report."""
  templates = environment('data_tools')
  templates.filters['shown'] = shown
  charts = {'objects a clip': _bars(found['objects_per_clip'].items())}
  charts |= {name: _histogram(values) for name, values in _scores(tally).items()}
  windows = collections.Counter(_windows(how) for how in tally.videos.values())
  charts['windows a video'] = _bars(sorted(windows.items()))
  return templates.get_template(TEMPLATE).render(
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
  """Return an error message without its file names, numbers and remedy, to group by cause."""
  text = why.split(': ', 1)[-1]
  return re.sub(r'\d+(\.\d+)?', 'N', re.sub(r'/\S+', 'FILE', text)).split(';')[0]
