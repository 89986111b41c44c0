"""Draw line charts as inline SVG with matplotlib.

Text is kept as SVG text, so browsers can search and scale it. The background is transparent and the
axes are neutral gray, so a chart is readable on light and dark pages.
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

# The first six are from the color-blind-safe palette of Okabe and Ito 2008; black and yellow are
# left out.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#9a6dd7', '#8c8c8c')
AXES_COLOR = '#808080'
INCHES = (5.0, 2.8)
FEW = 12  # A series of at most this many points is drawn with markers.

# The fixed hash salt makes the SVG of equal charts identical byte for byte.
_SETTINGS: Any = {'svg.fonttype': 'none', 'svg.hashsalt': 'ttm_jax', 'font.size': 9}

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Chart:
  """A line chart of one or more series.

  Attributes:
    title: title of the chart, also the accessible name of the image.
    series: name -> (step, value) pairs in order of step. NaN and Inf leave a gap.
    x_label: label of the x axis.
    log: whether the y axis is logarithmic; values <= 0 then leave a gap.
  """

  title: str
  series: Mapping[str, Points]
  x_label: str = 'step'
  log: bool = False


def svg(chart: Chart) -> str:
  """Return the <svg> element of a chart with axes, ticks, a legend and one line per series.

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
  """Escape a text for matplotlib, which treats `$` as math and hides labels that start with `_`."""
  text = text.replace('$', r'\$')
  return f' {text}' if text.startswith('_') else text
