"""Write the figures of the documentation to docs/figures/.

    python -m docs.generate.figures

Those that show data are computed from a scene, with the functions that the networks use.
"""

from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from docs.generate.drawing import DARK, LIGHT, Drawing, variables
from ttm_jax import trajectory
from ttm_jax.media.label_images import read_mask_image
from ttm_jax.ops.object_attention import sort_by_object
from ttm_jax.scenes.generator import SceneConfig, scene

FOLDER = Path(__file__).parents[1] / 'figures'
STYLE = Path(__file__).parents[1] / 'colors.css'

# A scene whose objects are large.
SCENE = SceneConfig(min_objects=3, motions=('left', 'right', 'up', 'down', 'grow'))
INDEX = 1450
GROUPS = np.repeat(np.arange(4), 2)  # Two frames to a latent frame.
GRID = 8, 8  # Tokens of a latent frame along height and width.
BLOCK = 16  # Tokens of a block in the picture of the score matrix.


def runs(mask: np.ndarray) -> Iterator[tuple[int, int, int]]:
  """Yield (row, first column, number of columns) of each run of True in a mask [H, W]."""
  edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
  for row in range(len(mask)):
    first, last = np.flatnonzero(edges[row] == 1), np.flatnonzero(edges[row] == -1)
    yield from ((row, int(a), int(b - a)) for a, b in zip(first, last, strict=True))


def raster(drawing: Drawing, ids: np.ndarray, x: float, y: float, side: float) -> None:
  """Draw a label map [H, W] of at most three objects in the colors of objects."""
  for label in range(4):
    drawing.cells(runs(ids == label), x, y, side, f'o{label}')


def box(drawing: Drawing, x, y, width, lines, height=58, color='panel', outline='line') -> None:
  """Draw a box with lines of text; the first one is bold."""
  drawing.rectangle(x, y, width, height, color, outline, corner=6)
  top = y + height / 2 - 9 * (len(lines) - 1) + 5
  for i, line in enumerate(lines):
    drawing.text(x + width / 2, top + 18 * i, line, 13, 'ink' if not i else 'quiet', bold=not i)


def two_stages() -> Drawing:
  """Draw what goes into each stage and what comes out."""
  drawing = Drawing(
    760,
    300,
    'Stage 1 turns image, masks and motion prompt into a trajectory;'
    ' stage 2 turns image, trajectory, caption and object prompts into the video',
  )
  clip = scene(SCENE, INDEX)
  box(drawing, 10, 20, 150, ['image'])
  box(drawing, 10, 92, 150, ['masks of frame 0', 'one per object'])
  box(drawing, 10, 164, 150, ['motion prompt', 'what moves, and how'])
  box(drawing, 210, 78, 120, ['stage 1', 'image to motion'], 86, 'panel', 'accent')
  for y in (49, 121, 193):
    drawing.line(160, y, 184, y)
  drawing.line(184, 49, 184, 193)
  drawing.arrow(184, 121, 210, 121)
  drawing.text(429, 62, 'trajectory', 13, bold=True)
  for i, frame in enumerate((0, 3, 7)):
    x, y = 366 + 22 * i, 72 + 12 * i
    raster(drawing, clip.ids[frame], x, y, 1.7)
    drawing.rectangle(x, y, 81.6, 81.6, '', 'paper', corner=0)
  drawing.text(429, 196, 'a label map per frame:', 12, 'quiet')
  drawing.text(429, 212, 'view, edit or draw it', 12, 'quiet')
  drawing.arrow(330, 121, 360, 121)
  box(drawing, 530, 78, 120, ['stage 2', 'motion to video'], 86, 'panel', 'accent')
  drawing.arrow(498, 121, 530, 121)
  box(drawing, 676, 92, 74, ['video'])
  drawing.arrow(650, 121, 676, 121)
  box(drawing, 190, 232, 170, ['image'], 50)
  box(drawing, 372, 232, 170, ['caption', 'the whole scene'], 50)
  box(drawing, 554, 232, 196, ['object prompts', 'what each object does'], 50)
  for x in (275, 457, 652):
    drawing.line(x, 232, x, 222)
  drawing.line(275, 222, 652, 222)
  drawing.arrow(590, 222, 590, 164)
  return drawing


def masked_block() -> Drawing:
  """Draw the layers of a block with masked attention."""
  drawing = Drawing(
    760,
    250,
    'A masked block: self-attention, masked self-attention, cross-attention to'
    ' the caption, masked cross-attention to object prompts, feed-forward',
  )
  layers = (
    ('self-attention', 'all tokens', False),
    ('masked self-', 'attention', True),
    ('cross-attention', 'caption', False),
    ('masked cross-', 'attention', True),
    ('feed-forward', 'each token', False),
  )
  drawing.text(2, 75, 'tokens', 13, 'quiet', 'start')
  for i, (name, more, masked) in enumerate(layers):
    x = 68 + 136 * i
    drawing.arrow(x - 16, 70, x, 70)
    box(drawing, x, 40, 120, [name, more], 60, 'panel', 'accent' if masked else 'line')
  drawing.arrow(732, 70, 758, 70)
  for x, lines in (
    (265, ('A token attends to the tokens', 'of its own object, in all frames.')),
    (537, ('A token attends to the prompts', 'of the objects at its place.')),
  ):
    drawing.arrow(x, 146, x, 102, 'accent')
    for i, line in enumerate(lines):
      drawing.text(x, 164 + 17 * i, line, 12.5)
  for y, line in (
    (216, 'The first K blocks have the two masked layers, each behind a gate that starts'),
    (234, 'at 0: a block begins as exactly the block of the network that it comes from.'),
  ):
    drawing.text(380, y, line, 12.5, 'quiet')
  return drawing


def token_masks() -> Drawing:
  """Draw a label map, the owner of each token and the objects present at each token."""
  drawing = Drawing(
    760,
    312,
    'A label map, the object that owns each token, and the tokens at which one object is present',
  )
  ids = scene(SCENE, INDEX).ids
  owner = trajectory.token_regions(ids, GROUPS, GRID)[0]
  present = trajectory.token_presence(ids, GROUPS, GRID)[0]
  large = int(np.bincount(ids[0][ids[0] > 0]).argmax())
  columns = (16, 268, 520)
  titles = 'label map', 'owner of each token', f'tokens with object {large}'
  notes = (
    ('48 x 48 pixels, one number each;', '0 is the background.'),
    (
      'The label with most pixels in the',
      'cell and its two frames. Masked',
      'self-attention uses it.',
    ),
    ('Its box covers half of the cell.', 'Boxes overlap. Masked cross-', 'attention uses it.'),
  )
  for x, title, lines in zip(columns, titles, notes, strict=True):
    drawing.text(x, 26, title, 13.5, 'ink', 'start', bold=True)
    for i, line in enumerate(lines):
      drawing.text(x, 266 + 18 * i, line, 13, 'quiet', 'start')
  raster(drawing, ids[0], columns[0], 40, 200 / 48)
  raster(drawing, owner, columns[1], 40, 25)
  drawing.cells(runs(np.ones(GRID, bool)), columns[2], 40, 25, 'o0')
  drawing.cells(runs(present & (1 << large) > 0), columns[2], 40, 25, f'o{large}')
  for x in columns[1:]:
    for i in range(9):
      drawing.line(x + 25 * i, 40, x + 25 * i, 240, 'paper')
      drawing.line(x, 40 + 25 * i, x + 200, 40 + 25 * i, 'paper')
  return drawing


def mask_formats() -> Drawing:
  """Draw masks of several formats, and the label maps that are read from them."""
  drawing = Drawing(
    760,
    318,
    'Masks as gray object numbers, white on black, colors on black and palette images, and the'
    ' label maps that are read from them',
  )
  ids = scene(SCENE, INDEX).ids[0]
  ids[ids == 3] = 0
  palette = trajectory.PALETTES['spread8']
  gray = Image.fromarray(ids)
  white = Image.fromarray(np.where(ids == 1, np.uint8(255), np.uint8(0)))
  colors = Image.fromarray(np.array([(0, 0, 0), (255, 190, 90), (90, 160, 255)], np.uint8)[ids])
  indexed = colors.convert('P', palette=Image.Palette.ADAPTIVE, colors=3)
  drawing.text(8, 84, 'the file', 13, 'quiet', 'start')
  drawing.text(8, 222, 'read as', 13, 'quiet', 'start')
  for i, (image, title, more) in enumerate(
    (
      (gray, 'gray: 0, 1, 2', 'the values as stored'),
      (white, 'white on black', '0 and 255: one object'),
      (colors, 'colors on black', 'numbered by color'),
      (indexed, 'palette image', 'as its colors say'),
    )
  ):
    x = 76 + 172 * i
    drawing.text(x, 20, title, 12.5, 'ink', 'start', bold=True)
    picture = np.asarray(image.convert('RGB')).astype(int)
    shades = (picture * (65536, 256, 1)).sum(-1)
    for shade in np.unique(shades):
      drawing.cells(runs(shades == shade), x, 32, 2.5, f'#{shade:06x}')
    found = read_mask_image(image, palette, title)
    for label in range(3):
      drawing.cells(runs(found == label), x, 170, 2.5, f'o{label}')
    drawing.text(x, 310, more, 12.5, 'quiet', 'start')
  return drawing


def score_matrix() -> Drawing:
  """Draw the allowed pairs of masked self-attention before and after tokens are sorted."""
  drawing = Drawing(
    760,
    450,
    'The score matrix of masked self-attention: in raster order nearly every'
    ' block has allowed pairs, in sorted order most blocks have none',
  )
  ids = scene(SCENE, INDEX).ids
  owner = trajectory.token_regions(ids, GROUPS, GRID).reshape(-1)
  order = np.asarray(sort_by_object(jnp.asarray(owner, jnp.int32)[None]))[0]
  side = 340
  for x, title, labels in ((22, 'raster order', owner), (398, 'sorted by object', owner[order])):
    allowed = labels[:, None] == labels[None]
    count = len(labels)
    blocks = allowed.reshape(count // BLOCK, BLOCK, count // BLOCK, BLOCK).any(axis=(1, 3))
    drawing.text(x, 26, title, 14, 'ink', 'start', bold=True)
    visited = f'{blocks.sum()} of {blocks.size} blocks are computed'
    drawing.text(x + side, 26, visited, 12.5, 'quiet', 'end')
    drawing.rectangle(x, 36, side, side, 'paper', '', corner=0)
    drawing.cells(runs(blocks), x, 36, side / len(blocks), 'panel')
    for label in range(4):
      drawing.cells(runs(allowed & (labels == label)[:, None]), x, 36, side / count, f'o{label}')
    for i in range(len(blocks) + 1):
      at = side / len(blocks) * i
      drawing.line(x + at, 36, x + at, 36 + side, 'quiet')
      drawing.line(x, 36 + at, x + side, 36 + at, 'quiet')
  for i, line in enumerate(
    (
      f'The {count} tokens of the scene above, all frames. Rows are queries, columns are keys.',
      'Colored: pairs of one object; gray: pairs of the background. A kernel computes the shaded',
      f'blocks, here of {BLOCK} x {BLOCK} pairs, and skips those without an allowed pair.',
    )
  ):
    drawing.text(22, 398 + 18 * i, line, 12.5, 'quiet', 'start')
  return drawing


FIGURES = {
  'two-stages': two_stages,
  'masked-block': masked_block,
  'mask-formats': mask_formats,
  'token-masks': token_masks,
  'score-matrix': score_matrix,
}


def colors() -> str:
  """Return the style sheet that gives drawings the scheme that the reader chose on the site."""
  schemes = (('default', LIGHT), ('slate', DARK))
  return '/* Made by python -m docs.generate.figures. */\n' + ''.join(
    f'[data-md-color-scheme="{name}"] .drawn {{ {variables(scheme)} }}\n'
    for name, scheme in schemes
  )


def main() -> None:
  """Write all figures and their colors."""
  FOLDER.mkdir(exist_ok=True)
  for name, draw in FIGURES.items():
    (FOLDER / f'{name}.svg').write_text(draw().svg())
  STYLE.write_text(colors())


if __name__ == '__main__':
  main()
