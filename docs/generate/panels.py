"""Lay out animations as a page: a title, rows of panels with a sentence each, and a last line."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, QUIET, ARROW = (255, 255, 255), (32, 34, 40), (104, 108, 118), (255, 255, 255)
SIDE = 176  # Least height of a panel in pixels; videos are enlarged by a whole number.
GAP, MARGIN = 10, 14
TITLE, SENTENCE, LABEL, SMALL = 19, 15, 13, 11  # Sizes of letters in pixels.


@dataclasses.dataclass(frozen=True)
class Panel:
  """A video or an image of a row.

  Attributes:
    label: stands above the panel, in the first row alone if all rows have the same labels.
    frames: uint8 [T, H, W, 3]; one frame is an image that stands still.
    path: corners (x, y) in pixels of a line that is drawn over it, with an arrow at its end.
  """

  label: str
  frames: np.ndarray
  path: Sequence[tuple[float, float]] = ()


@dataclasses.dataclass(frozen=True)
class Row:
  """Panels side by side.

  Attributes:
    sentence: stands above them.
    panels: as many as in the other rows.
  """

  sentence: str
  panels: Sequence[Panel]


def page(title: str, rows: Sequence[Row], last: str, columns: int = 1) -> np.ndarray:
  """Return the frames of a page.

  Args:
    title: first line.
    rows: of panels of one size.
    last: last line, in small letters.
    columns: rows that stand side by side.

  Returns:
    uint8 [T, H', W', 3], T of the longest panel.
  """
  length = max(len(panel.frames) for row in rows for panel in row.panels)
  return np.stack([_page(title, rows, last, columns, t) for t in range(length)])


def _page(title: str, rows: Sequence[Row], last: str, columns: int, t: int) -> np.ndarray:
  factor = -(-SIDE // rows[0].panels[0].frames.shape[1])
  height, width = (factor * side for side in rows[0].panels[0].frames.shape[1:3])
  count = len(rows[0].panels)
  across = count * width + (count - 1) * GAP
  labels = [[panel.label for panel in row.panels] for row in rows]
  sheet = Image.new('RGB', (columns * across + (columns - 1) * 3 * GAP + 2 * MARGIN, 4096), PAPER)
  draw = ImageDraw.Draw(sheet)
  y = MARGIN + _text(draw, MARGIN, MARGIN, title, TITLE, INK, sheet.width - 2 * MARGIN) + GAP
  tops = y
  for first in range(0, len(rows), columns):
    bottoms = []
    for column, row in enumerate(rows[first : first + columns]):
      left, place = MARGIN + column * (across + 3 * GAP), tops
      place += _text(draw, left, place, row.sentence, SENTENCE, INK, across) + 3
      if first < columns or labels[first + column] != labels[0]:
        for i, panel in enumerate(row.panels):
          _text(draw, left + i * (width + GAP), place, panel.label, LABEL, QUIET, width)
        place += LABEL + 6
      for i, panel in enumerate(row.panels):
        frame = panel.frames[min(t, len(panel.frames) - 1)]
        enlarged = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
        if panel.path:
          _arrow(enlarged, [(x * factor, y * factor) for x, y in panel.path])
        sheet.paste(enlarged, (left + i * (width + GAP), place))
      bottoms.append(place + height)
    tops = max(bottoms) + GAP + 4
  tops += _text(draw, MARGIN, tops, last, SMALL, QUIET, sheet.width - 2 * MARGIN)
  return np.asarray(sheet.crop((0, 0, sheet.width, tops + MARGIN // 2)))


def _text(
  draw: ImageDraw.ImageDraw, x: int, y: int, text: str, size: int, color: tuple, width: int
) -> int:
  """Draw a text in lines that fit a width in pixels; return its height in pixels."""
  font = ImageFont.load_default(size)
  lines = ['']
  for word in text.split():
    longer = f'{lines[-1]} {word}'.strip()
    if lines[-1] and draw.textlength(longer, font) > width:
      lines.append(word)
    else:
      lines[-1] = longer
  step = round(1.3 * size)
  for i, line in enumerate(lines):
    draw.text((x, y + i * step + step // 2), line, color, font, anchor='lm')
  return step * len(lines)


def _arrow(image: Image.Image, corners: Sequence[tuple[float, float]]) -> None:
  """Draw a line with an arrow at its end."""
  draw = ImageDraw.Draw(image)
  draw.line(corners, ARROW, 3, joint='curve')
  end = np.array(corners[-1])
  way = end - np.array(corners[0])
  way = way / max(float(np.linalg.norm(way)), 1e-6) * 12
  side = np.array([-way[1], way[0]]) * 0.6
  draw.polygon([tuple(end + 0.5 * way), tuple(end - way + side), tuple(end - way - side)], ARROW)
