"""Line charts as inline SVG: no drawing library, no script, colours from the page's style sheet.

The SVG takes its text colour from the page (`currentColor`) and the series' colours from the
custom properties --series-1 to --series-8, where the page sets them.
"""

import dataclasses
import html
import math
from collections.abc import Iterator, Mapping, Sequence

from ttm_jax.errors import InputError

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, BOTTOM = 46, 12, 40
LEGEND_LINE = 20
CHARACTER = 6.6  # Mean width of a character at 12 px.
# Okabe and Ito 2008: told apart with any colour vision; black left out.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#9a6dd7', '#8c8c8c')
MAX_POINTS = 600

Points = Sequence[tuple[float, float]]
Runs = list[list[tuple[float, float]]]


@dataclasses.dataclass(frozen=True)
class Chart:
  """Curves over one pair of axes.

  Attributes:
    title: what is drawn.
    series: name -> (step, value) in order of step. A value that is not finite leaves a gap.
    x_label: what the steps count.
    log: logarithmic values; those of 0 and below leave a gap.
  """

  title: str
  series: Mapping[str, Points]
  x_label: str = 'step'
  log: bool = False


def svg(chart: Chart) -> str:
  """An <svg> element: axes with ticks, a legend, one line a series (markers where it is short).

  All text is escaped. A series of more than MAX_POINTS points is thinned to the lowest and the
  highest of each bin, so that spikes stay visible.
  """
  if len(chart.series) > len(COLOURS):
    raise InputError(
      f'chart "{chart.title}" has {len(chart.series)} series, but at most {len(COLOURS)} can be'
      ' told apart: split it'
    )
  drawn = {name: _runs(points, chart.log) for name, points in chart.series.items()}
  xs, ys = zip(
    *[p for runs in drawn.values() for run in runs for p in run] or [(0, 1)], strict=True
  )
  legend, legend_height = _legend(list(chart.series))
  x_low, x_high = _padded(min(xs), max(xs))
  y_ticks = log_ticks(min(ys), max(ys)) if chart.log else linear_ticks(*_padded(min(ys), max(ys)))
  x_at = _Scale(x_low, x_high, LEFT, WIDTH - RIGHT)
  y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
  y_at = _Scale(y_low, y_high, HEIGHT - BOTTOM, legend_height + 12, chart.log)
  return '\n'.join(
    [
      f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12"'
      f' aria-label="{html.escape(chart.title)}">',
      *legend,
      *_axes(x_at, y_at, linear_ticks(x_low, x_high, inside=True), y_ticks, chart.x_label),
      *(
        element
        for index, (name, runs) in enumerate(drawn.items())
        for element in _line(name, runs, x_at, y_at, colour(index))
      ),
      '</svg>',
    ]
  )


def colour(index: int) -> str:
  """The CSS colour of a series, counted from 0."""
  return f'var(--series-{index + 1}, {COLOURS[index]})'


def linear_ticks(low: float, high: float, inside: bool = False) -> list[float]:
  """About five multiples of 1, 2 or 5 times a power of ten that enclose low..high.

  Args:
    low, high: low < high.
    inside: only those within low..high.
  """
  raw = (high - low) / 5
  power = 10.0 ** math.floor(math.log10(raw))
  step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
  first, last = low / step, high / step
  if inside:
    numbers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
  else:
    numbers = range(math.floor(first + 1e-9), math.ceil(last - 1e-9) + 1)
  # A product with a decimal fraction would show as 0.30000000000000004.
  return [float(f'{n * step:.12g}') for n in numbers]


def log_ticks(low: float, high: float) -> list[float]:
  """Powers of ten, with their 2- and 5-fold over less than two decades, that enclose low..high.

  Over many decades some are left out, also the last.
  """
  multiples = (1, 2, 5) if high / low < 100 else (1,)
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
  ticks = [float(f'{m}e{n}') for n in powers for m in multiples]
  first = max(tick for tick in ticks if tick <= low)
  last = min(tick for tick in ticks if tick >= high and tick > first)
  ticks = [tick for tick in ticks if first <= tick <= last]
  return ticks[:: math.ceil(len(ticks) / 9)]


def tick_text(value: float) -> str:
  """A short number: 0.25, 1500, 20k, 3M, 1e-05."""
  for least, unit, letter in ((1e9, 1e9, 'G'), (1e6, 1e6, 'M'), (1e4, 1e3, 'k')):
    if abs(value) >= least:
      return f'{value / unit:g}{letter}'
  return f'{value:g}'


@dataclasses.dataclass(frozen=True)
class _Scale:
  """Maps values low..high to places start..end on the drawing."""

  low: float
  high: float
  start: float
  end: float
  log: bool = False

  def __call__(self, value: float) -> float:
    low, high = self.low, self.high
    if self.log:
      value, low, high = math.log10(value), math.log10(low), math.log10(high)
    return self.start + (value - low) / (high - low) * (self.end - self.start)


def _axes(x_at, y_at, x_ticks, y_ticks, x_label: str) -> Iterator[str]:
  floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
  for tick in y_ticks:
    y = y_at(tick)
    yield (
      f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor"'
      ' stroke-opacity="0.15"/>'
    )
    yield _text(LEFT - 8, y + 4, tick_text(tick), 'end')
  for tick in x_ticks:
    x = x_at(tick)
    yield (
      f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}" stroke="currentColor"'
      ' stroke-opacity="0.5"/>'
    )
    yield _text(x, floor + 17, tick_text(tick), 'middle')
  yield (
    f'<line x1="{LEFT}" x2="{right}" y1="{floor}" y2="{floor}" stroke="currentColor"'
    ' stroke-opacity="0.5"/>'
  )
  yield _text((LEFT + right) / 2, HEIGHT - 5, x_label, 'middle')


def _line(name: str, runs: Runs, x_at, y_at, paint: str) -> Iterator[str]:
  number = sum(map(len, runs))
  few, width = number <= 12, 2 if number <= 120 else 1.25
  for run in runs:
    corners = ' '.join(f'{x_at(x):.1f},{y_at(y):.1f}' for x, y in run)
    yield (
      f'<polyline points="{corners}" fill="none" stroke="{paint}"'
      f' stroke-width="{width}" stroke-linejoin="round">'
      f'<title>{html.escape(name)}</title></polyline>'
    )
    if few or len(run) == 1:
      for x, y in run:
        yield (
          f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{paint}">'
          f'<title>{html.escape(name)}: {y:.4g} at {tick_text(x)}</title></circle>'
        )


def _text(x: float, y: float, text: str, anchor: str = 'start') -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">'
    f'{html.escape(text)}</text>'
  )


def _runs(points: Points, log: bool) -> Runs:
  """The stretches of a series that can be drawn, thinned."""
  runs: Runs = [[]]
  for x, y in points:
    if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log):
      runs[-1].append((float(x), float(y)))
    elif runs[-1]:
      runs.append([])
  bin_size = max(1, math.ceil(2 * len(points) / MAX_POINTS))
  return [_thin(run, bin_size) for run in runs if run]


def _thin(run: list[tuple[float, float]], bin_size: int) -> list[tuple[float, float]]:
  if bin_size == 1:
    return run
  kept = {0, len(run) - 1}
  for start in range(0, len(run), bin_size):
    indices = range(start, min(start + bin_size, len(run)))
    kept |= {min(indices, key=lambda i: run[i][1]), max(indices, key=lambda i: run[i][1])}
  return [run[i] for i in sorted(kept)]


def _padded(low: float, high: float) -> tuple[float, float]:
  """An interval that is not empty."""
  if high > low:
    return low, high
  margin = abs(low) * 0.1 or 1.0
  return low - margin, high + margin


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
  """The legend, broken into lines, and its height."""
  elements, x, y = [], float(LEFT), 14
  for index, name in enumerate(names):
    width = 42 + CHARACTER * len(name)
    if x > LEFT and x + width > WIDTH:
      x, y = float(LEFT), y + LEGEND_LINE
    elements.append(
      f'<line x1="{x:.1f}" x2="{x + 18:.1f}" y1="{y - 4}" y2="{y - 4}" stroke="{colour(index)}"'
      ' stroke-width="3" stroke-linecap="round"/>'
    )
    elements.append(_text(x + 26, y, name))
    x += width
  return elements, y
