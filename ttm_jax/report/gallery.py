"""Write one self-contained HTML file with tables, curves and animated samples.

The page works offline. It has no scripts, and its content security policy blocks external content.
"""

import base64
import dataclasses
import numbers
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np

from ttm_jax.atomic import write_bytes
from ttm_jax.media import animations
from ttm_jax.report import curves as drawing

MAX_SIDE = 384  # Pixels. Larger panels are downscaled to this side and compressed lossily.


class Within(NamedTuple):
  """A number with its interval, as the cell of a table."""

  value: float
  low: float
  high: float


class Table(NamedTuple):
  """A table of results.

  Attributes:
    caption: text above the table.
    headers: one per column.
    rows: cells, as many as headers: texts, numbers (shown with at least three digits), numbers
      `Within` their interval, or None, shown as a dash.
  """

  caption: str
  headers: Sequence[str]
  rows: Sequence[Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Panel:
  """A named image or looping animation.

  Attributes:
    name: text below the panel.
    pixels: uint8 [H, W, 3] or [T, H, W, 3].
    fps: frames per second of an animation.
  """

  name: str
  pixels: np.ndarray
  fps: float = 8.0


@dataclasses.dataclass(frozen=True)
class Row:
  """One sample of the gallery.

  Attributes:
    title: heading of the sample.
    texts: label -> text, such as caption, motion prompt, object prompts and scores.
    panels: inputs and generated results, shown side by side.
  """

  title: str
  texts: Mapping[str, str]
  panels: Sequence[Panel]


def write_gallery(
  path: str | os.PathLike,
  title: str,
  intro: str,
  tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = (),
  curves: Sequence[drawing.Chart] = (),
  rows: Sequence[Row] = (),
) -> pathlib.Path:
  """Write the page atomically and return its path.

  Args:
    path: HTML file; a missing parent folder is created.
    title: heading of the page.
    intro: plain text; an empty line starts a new paragraph.
    tables: `Table`s, or tuples of caption, headers and rows.
    curves: charts.
    rows: samples. Panels of at most `MAX_SIDE` pixels a side are embedded losslessly; larger ones
      are downscaled and compressed lossily. 16 rows of 6 panels of 8x48x48 (frames x height x
      width) make a file of a few megabytes.

  Raises:
    InputError: a chart has too many series, or the pixels of a panel are invalid.
  """
  templates = environment('ttm_jax.report')
  templates.filters['shown'] = shown
  templates.tests['number'] = _is_number
  templates.tests['within'] = lambda value: isinstance(value, Within)
  page = templates.get_template('gallery.html.j2').render(
    title=title,
    paragraphs=[p.strip() for p in intro.split('\n\n') if p.strip()],
    tables=[Table(*table) for table in tables],
    # SVG is the only markup inserted without autoescaping; `curves.svg` escapes its texts.
    charts=[(chart.title, markupsafe.Markup(drawing.svg(chart))) for chart in curves],
    rows=[(row.title, row.texts, [_embedded(panel) for panel in row.panels]) for row in rows],
  )
  write_bytes(path, page.encode(errors='backslashreplace'))  # Names may contain surrogates.
  return pathlib.Path(path)


def environment(package: str) -> jinja2.Environment:
  """Return the Jinja environment for the HTML templates of a package, with autoescaping."""
  return jinja2.Environment(
    loader=jinja2.PackageLoader(package, '.'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )


def _embedded(panel: Panel) -> dict[str, Any]:
  frames = animations.as_frames(panel.pixels, panel.name)
  small = max(frames.shape[1:3]) <= MAX_SIDE
  if not small:
    frames = animations.shrunk(frames, MAX_SIDE)
  code = base64.b64encode(animations.webp(frames, panel.fps, lossless=small)).decode()
  _, height, width, _ = frames.shape
  return {
    'name': panel.name,
    'uri': f'data:image/webp;base64,{code}',
    'width': width,
    'height': height,
  }


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real | Within) and not isinstance(value, bool)


def shown(value: Any) -> str:
  """Return the text of a table cell."""
  if value is None:
    return '–'  # noqa: RUF001
  if isinstance(value, bool | np.bool_):
    return 'yes' if value else 'no'
  if isinstance(value, numbers.Integral):
    return f'{value:,}'
  if isinstance(value, numbers.Real):
    size = abs(float(value))
    if size >= 1000:
      return f'{value:,.0f}'
    if size >= 100:
      return f'{value:.1f}'
    if size >= 1:
      return f'{value:.2f}'
    return f'{value:.3f}' if size >= 0.01 or not size else f'{value:.2e}'
  return str(value)
