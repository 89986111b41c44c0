"""Drawings as SVG whose colors follow the reader's light or dark scheme.

A drawing names colors by class: `ink`, `quiet`, `paper`, `line`, `accent`, and `o0` to `o3` for the
background and objects. The style of the site sets them; a drawing on its own follows the system.
"""

import html
from collections.abc import Iterable

LIGHT = {
  'ink': '#1f2430', 'quiet': '#5a6272', 'paper': '#ffffff', 'line': '#8a93a3', 'accent': '#3f51b5',
  'panel': '#eef0f6', 'o0': '#c9ced9', 'o1': '#c2410c', 'o2': '#1d6fb8', 'o3': '#3f7d20',
}  # fmt: skip
DARK = {
  'ink': '#e8eaf0', 'quiet': '#aab2c0', 'paper': '#1e2129', 'line': '#78818f', 'accent': '#8f9ff2',
  'panel': '#2a2e39', 'o0': '#4a5160', 'o1': '#f08a4b', 'o2': '#5aa9e6', 'o3': '#8cc265',
}  # fmt: skip


def variables(colors: dict[str, str]) -> str:
  """Return the CSS declarations of a color scheme."""
  return ' '.join(f'--{name}: {value};' for name, value in colors.items())


def style() -> str:
  """Return the style of every drawing."""
  rules = [f'.drawn .{name} {{ fill: var(--{name}); }}' for name in LIGHT]
  rules += [f'.drawn .s-{name} {{ stroke: var(--{name}); fill: none; }}' for name in LIGHT]
  return (
    f'.drawn {{ {variables(LIGHT)} font-family: system-ui, sans-serif; }}'
    f' @media (prefers-color-scheme: dark) {{ .drawn {{ {variables(DARK)} }} }}'
    f' {" ".join(rules)}'
  )


class Drawing:
  """An SVG under construction; coordinates are in pixels, y down."""

  def __init__(self, width: int, height: int, title: str):
    """Begin an empty drawing.

    Args:
      width: of the drawing.
      height: of the drawing.
      title: what it shows, for screen readers.
    """
    self._size, self._title, self._parts = (width, height), title, []  # type: ignore[var-annotated]

  def rectangle(self, x, y, width, height, color='panel', outline='', corner=4) -> None:
    """Draw a rectangle with a filling and an outline; an empty color leaves one out."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{corner:g}"'
    if color:
      self._parts.append(f'<rect {place} class="{color}"/>')
    if outline:
      self._parts.append(f'<rect {place} class="s-{outline}" stroke-width="1.5"/>')

  def text(self, x, y, text, size=13, color='ink', anchor='middle', bold=False) -> None:
    """Write a line of text with its baseline at y."""
    weight = ' font-weight="600"' if bold else ''
    self._parts.append(
      f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" class="{color}"'
      f'{weight}>{html.escape(text)}</text>'
    )

  def arrow(self, x0, y0, x1, y1, color='line') -> None:
    """Draw a horizontal or vertical arrow."""
    length = max(abs(x1 - x0), abs(y1 - y0))
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    back_x, back_y = x1 - 8 * dx, y1 - 8 * dy
    self._parts.append(
      f'<path d="M{x0:g} {y0:g}L{back_x:g} {back_y:g}" class="s-{color}" stroke-width="1.5"/>'
      f'<path d="M{x1:g} {y1:g}L{back_x - 4 * dy:g} {back_y + 4 * dx:g}'
      f'L{back_x + 4 * dy:g} {back_y - 4 * dx:g}z" class="{color}"/>'
    )

  def line(self, x0, y0, x1, y1, color='line', dashed=False) -> None:
    """Draw a straight line."""
    dash = ' stroke-dasharray="4 3"' if dashed else ''
    self._parts.append(
      f'<path d="M{x0:g} {y0:g}L{x1:g} {y1:g}" class="s-{color}" stroke-width="1.2"{dash}/>'
    )

  def cells(self, cells: Iterable[tuple[int, int, int]], x, y, side, color) -> None:
    """Draw runs of cells of a raster.

    Args:
      cells: (row, first column, number of columns) of each run.
      x: left border of the raster.
      y: upper border of the raster.
      side: of a cell.
      color: of the cells: a class, or #rrggbb for one that stays in both schemes.
    """
    # Horizontal strokes, one cell high, in units of cells.
    path = ''.join(f'M{first} {row}h{count}' for row, first, count in cells)
    if path:
      place = f'translate({x:g} {y + side / 2:g}) scale({side:.4g})'
      shade = f'stroke="{color}"' if color.startswith('#') else f'class="s-{color}"'
      self._parts.append(f'<path d="{path}" {shade} transform="{place}"/>')

  def svg(self) -> str:
    """Return the drawing as the text of a file."""
    width, height = self._size
    return (
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="drawn">\n'
      f'<title>{html.escape(self._title)}</title>\n<style>{style()}</style>\n'
      + '\n'.join(self._parts)
      + '\n</svg>\n'
    )
