"""Line charts as inline SVG, drawn by matplotlib.

Text stays text, so that browsers can search and scale it. The background is transparent and axes
are neutral gray, so that a chart is readable on light and dark pages.
"""

import dataclasses
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ttm_jax.errors import InputError

# Okabe and Ito 2008: distinguishable with any color vision; black is left out.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#9a6dd7', '#8c8c8c')
AXES_COLOR = '#808080'
INCHES = (5.0, 2.8)
FEW = 12  # A series of at most this many points gets markers.

# Equal charts give equal bytes.
_SETTINGS: Any = {'svg.fonttype': 'none', 'svg.hashsalt': 'ttm_jax', 'font.size': 9}

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Chart:
  """Curves over one pair of axes.

  Attributes:
    title: what is drawn; the accessible name of the image.
    series: name -> (step, value) in order of step. A value that is not finite leaves a gap.
    x_label: what the steps count.
    log: logarithmic values; those of 0 and below leave a gap.
  """

  title: str
  series: Mapping[str, Points]
  x_label: str = 'step'
  log: bool = False


def svg(chart: Chart) -> str:
  """Return the <svg> element of a chart: axes with ticks, a legend, one line a series.

  Raises:
    InputError: the chart has more series than there are colors.
  """
  if len(chart.series) > len(COLORS):
    raise InputError(
      f'chart "{chart.title}" has {len(chart.series)} series, but only {len(COLORS)} can be told'
      ' apart: split it'
    )
  with matplotlib.rc_context(_SETTINGS):
    figure = Figure(INCHES, layout='constrained')
    axes = figure.add_subplot(xlabel=_literal(chart.x_label))
    drawn = 0
    for index, (name, points) in enumerate(chart.series.items()):
      xs, ys = [x for x, _ in points], [_drawable(y, chart.log) for _, y in points]
      drawn += sum(map(math.isfinite, ys))
      marker = 'o' if len(points) <= FEW else ''
      (line,) = axes.plot(xs, ys, label=_literal(name), color=COLORS[index], lw=1.25)
      line.set(marker=marker, markersize=3, gid=f'series-{index}')
    if chart.log and drawn:
      axes.set_yscale('log')
    if chart.series:
      axes.legend(frameon=False, labelcolor=AXES_COLOR)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(AXES_COLOR)
    axes.tick_params(which='both', colors=AXES_COLOR)
    axes.xaxis.label.set_color(AXES_COLOR)
    buffer = io.StringIO()
    metadata = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(buffer, format='svg', transparent=True, metadata=metadata)
  text = buffer.getvalue()
  name = html.escape(chart.title)
  element = text[text.index('<svg') :]
  return element.replace('<svg', f'<svg class="chart" role="img" aria-label="{name}"', 1)


def _drawable(value: float, log: bool) -> float:
  return value if math.isfinite(value) and (value > 0 or not log) else math.nan


def _literal(text: str) -> str:
  """Return a text without matplotlib's own markup: no formulas, no hidden labels."""
  text = text.replace('$', r'\$')
  return f' {text}' if text.startswith('_') else text
