"""Masks of every common kind are read as the label maps that they show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from tests.helpers import tiny_png
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.media import label_images

OURS = np.concatenate([np.zeros((1, 3), np.uint8), trajectory.PALETTES['spread8']])
DAVIS = np.array(
  [
    *((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)),
    *((128, 0, 128), (0, 128, 128), (128, 128, 128), (64, 0, 0)),
  ],
  np.uint8,
)
OWN = np.array([(0, 0, 0), *((17 * k + 3, 200 - 11 * k, 90 + k) for k in range(8))], np.uint8)
VOID = (224, 224, 192)  # The color of index 255.


def painted(ids, table):
  return np.take(table, ids, axis=0)


def palette(ids, table):
  image = Image.fromarray(ids)
  image.putpalette(table.tobytes())
  return image


def reduced(ids, table):
  """Reduce a palette image as optimizers do: used colors only, the most frequent first."""
  used, counts = np.unique(ids, return_counts=True)
  order = used[np.argsort(-counts, kind='stable')]
  places = np.zeros(256, np.uint8)
  places[order] = np.arange(len(order))
  return palette(places[ids], table[order])


def transparent(ids):
  """Return objects in our colors on a transparent background with colors of its own underneath."""
  alpha = np.where(ids > 0, 255, 0).astype(np.uint8)
  colors = np.where(ids[..., None] > 0, painted(ids, OURS), np.uint8([255, 0, 255]))
  return Image.fromarray(np.dstack([colors, alpha]))


def marked(ids):
  """Return an RGB image in our colors, one of which is marked as transparent."""
  image = Image.fromarray(np.where(ids[..., None] > 0, painted(ids, OURS), np.uint8([9, 8, 7])))
  image.info['transparency'] = (9, 8, 7)
  return image


# Each function writes ids uint8 [H, W]; they are read back unchanged, except as in `expected`.
KINDS = {
  'palette of ours.png': lambda ids: palette(ids, OURS),
  'palette of DAVIS.png': lambda ids: palette(ids, DAVIS),
  'palette of grey.png': lambda ids: palette(ids, np.repeat(np.arange(9, dtype=np.uint8), 3)),
  'palette of others.png': lambda ids: palette(ids, OWN),
  'palette of nothing.png': lambda ids: palette(ids, OWN * 0),
  'reduced ours.png': lambda ids: reduced(ids, OURS),
  'reduced DAVIS.png': lambda ids: reduced(ids, DAVIS),
  'grey.png': Image.fromarray,
  'grey of 16 bits.png': lambda ids: Image.fromarray(ids.astype(np.uint16)),
  'grey of 16 bits, scaled.png': lambda ids: Image.fromarray(ids.astype(np.uint16) * 257),
  'whole numbers.tif': lambda ids: Image.fromarray(ids.astype(np.int32)),
  'floats.tiff': lambda ids: Image.fromarray(ids.astype(np.float32)),
  'grey with opacity.png': lambda ids: Image.fromarray(ids).convert('LA'),
  'RGB in our colors.png': lambda ids: Image.fromarray(painted(ids, OURS)),
  'RGB in colors of DAVIS.PNG': lambda ids: Image.fromarray(painted(ids, DAVIS)),
  'RGB in grey.png': lambda ids: Image.fromarray(ids).convert('RGB'),
  'RGBA.png': lambda ids: Image.fromarray(painted(ids, OURS)).convert('RGBA'),
  'RGBA, transparent.png': transparent,
  'RGB, transparent.png': marked,
  'grey.bmp': Image.fromarray,
  'palette.bmp': lambda ids: palette(ids, OURS),
  'RGB.bmp': lambda ids: Image.fromarray(painted(ids, DAVIS)),
  'grey.tif': Image.fromarray,
  'palette.TIF': lambda ids: palette(ids, np.concatenate([DAVIS, np.zeros((247, 3), np.uint8)])),
  'grey of 16 bits.tif': lambda ids: Image.fromarray(ids.astype(np.uint16)),
  'grey.gif': Image.fromarray,
  'palette.gif': lambda ids: palette(ids, OURS),
  'RGB.webp': lambda ids: Image.fromarray(painted(ids, OURS)),
}
BITS = {
  f'{bits} bits{", interlaced" * laced}.png': (bits, laced)
  for bits in (1, 2, 4, 8, 16)
  for laced in (False, True)
}


def write(path, ids, kind):
  if kind in BITS:
    path.write_bytes(tiny_png.grey(ids, *BITS[kind]))
  elif kind == 'white.png':
    Image.fromarray(np.where(ids > 0, 255, 0).astype(np.uint8)).save(path)
  else:
    image = KINDS[kind](ids)
    image.save(path, **({'lossless': True} if kind.endswith('webp') else {}))


def expected(clip, kind):
  """Return the label map that an image kind can represent of a clip."""
  objects = {*np.unique(clip).tolist()} - {0}
  by_color = 'ours' in kind or 'our colors' in kind or kind in ('RGB.webp', 'palette.gif')
  by_color = by_color or kind.startswith('RGBA') or kind == 'RGB, transparent.png'
  if kind == 'white.png' or kind.startswith('1 bit,') or kind.startswith('1 bits'):
    return (clip > 0).astype(np.uint8)
  if by_color and kind != 'palette of ours.png' and objects == {8}:
    return (clip > 0).astype(np.uint8)  # White on black is one object.
  if ('DAVIS' in kind and kind != 'palette of DAVIS.png') or kind == 'RGB.bmp':
    return (clip > 0).astype(np.uint8) if objects == {7} else clip  # So is gray on black.
  return clip


maps = arrays.arrays(
  np.uint8,
  st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
  elements=st.integers(0, 8),
)


@settings(deadline=None, max_examples=80)
@given(maps, st.sampled_from([*KINDS, *BITS, 'white.png']), st.integers(0, 255))
def test_every_kind_is_read_as_it_was_written(tmp_path_factory, clip, kind, labels):
  # Clips with few objects are as likely as clips with many.
  clip = np.where(np.isin(clip, [k for k in range(1, 9) if labels >> (k - 1) & 1]), clip, 0)
  clip = clip.astype(np.uint8)
  if kind.startswith(('1 bits', '2 bits')):
    clip = np.minimum(clip, 2 ** int(kind[0]) - 1).astype(np.uint8)
  if 'transparent' in kind and not clip.any():
    clip[0, 0, 0] = 1
  if 'nothing' in kind:
    clip[0, 0, 0] = 0  # Otherwise black would be the only value.
  folder = tmp_path_factory.mktemp('masks')
  for t, ids in enumerate(clip):
    write(folder / f'{t} {kind}', ids, kind)
  np.testing.assert_array_equal(trajectory.read_folder(folder), expected(clip, kind))


def read(folder, *pictures):
  """Return label maps and notes of images that were saved in order."""
  folder.mkdir(exist_ok=True)
  for t, picture in enumerate(pictures):
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.array(picture))
    image.save(folder / f'{t}.png')
  notes = []
  ids = trajectory.read_folder(folder, notes)
  return ids[:, 0].tolist(), [note.removeprefix(f'{folder}: ') for note in notes]


def grey(*values, dtype=np.uint8):
  return np.array([values], dtype)


def colors(*values):
  return np.array([values], np.uint8)


RED, GREEN, WHITE, BLACK = (200, 30, 30), (30, 200, 30), (255, 255, 255), (0, 0, 0)


@pytest.mark.parametrize(
  'pictures, ids, note',
  [
    ([grey(0, 255, 255)], [[0, 1, 1]], 'white on black read as one object'),
    ([colors(BLACK, WHITE)], [[0, 1]], 'white on black read as one object'),
    ([grey(0, 1, 255)], [[0, 1, 0]], '255 read as background, as the mark of pixels to ignore'),
    ([grey(0, 2), grey(255, 3)], [[0, 2], [0, 3]], '255 read as background'),
    ([grey(0, 65535, dtype=np.uint16)], [[0, 1]], 'white on black read as one object'),
    ([grey(0, 2, 65535, dtype=np.uint16)], [[0, 2, 0]], '255 read as background'),
    ([grey(0, 2, 255, dtype=np.uint16)], [[0, 2, 0]], '255 read as background'),
    ([grey(0, 1000, 2000, dtype=np.uint16)], [[0, 1, 2]], 'values 1000, 2000 renumbered to 1, 2'),
    ([grey(0, 10, 20)], [[0, 1, 2]], 'values 10, 20 renumbered to 1, 2'),
    # Ids that can stay do, so that prompts keep their objects.
    ([grey(0, 2, 12)], [[0, 2, 1]], 'value 12 renumbered to 1'),
    # An object has one id in all frames, that of the first frame.
    ([grey(0, 30), grey(20, 30)], [[0, 1], [2, 1]], 'values 30, 20 renumbered to 1, 2'),
    ([colors(BLACK, GREEN, RED)], [[0, 1, 2]], 'colors #1ec81e, #c81e1e read as 1, 2'),
    (
      [colors(BLACK, RED), colors(GREEN, RED)],
      [[0, 1], [2, 1]],
      'colors #c81e1e, #1ec81e read as 1, 2',
    ),
    (
      [colors(BLACK, (128, 0, 0), VOID)],
      [[0, 1, 0]],
      'objects told by their colors in the palette',
    ),
    ([colors(BLACK, (0, 255, 0))], [[0, 2]], "objects told by their colors in this package's"),
    ([np.zeros((1, 3), np.uint8)], [[0, 0, 0]], None),
    ([grey(0, 8, 3)], [[0, 8, 3]], None),
    ([grey(1, 1)], [[1, 1]], None),
    # Kinds may differ between frames, as optimizers leave them.
    (
      [reduced(grey(3, 0, 0), OURS), Image.fromarray(grey(0, 1, 0) > 0)],
      [[3, 0, 0], [0, 8, 0]],
      'in',
    ),
    ([grey(0, 4), palette(grey(4, 0), DAVIS)], [[0, 4], [4, 0]], None),
  ],
)
def test_what_is_done_is_right_and_is_said(tmp_path, pictures, ids, note):
  read_as, notes = read(tmp_path / 'm', *pictures)
  assert read_as == ids
  assert notes == [] if note is None else note in ' '.join(notes)


def ramp(count):
  return grey(*np.linspace(0, 250, count).astype(int))


@pytest.mark.parametrize(
  'picture, said',
  [
    (ramp(100), 'holds 99 values, as smoothing and lossy formats leave them; save it as PNG'),
    (grey(*range(10)), 'holds 9 objects, but there can be 8; make the others background, 0'),
    (grey(0, 128, 255), 'holds value 128 and 255, which may be an object or mean "ignore"; number'),
    (colors(WHITE, RED, GREEN), 'no pixel is black, so that its colors do not tell the background'),
    (colors(BLACK, *((k, 9, 99) for k in range(9))), 'holds 9 objects, but there can be 8'),
    (colors(BLACK, *((k, 9, 99) for k in range(90))), 'holds 90 colors, as smoothing'),
  ],
)
def test_what_is_ambiguous_is_refused(tmp_path, picture, said):
  with pytest.raises(InputError) as caught:
    read(tmp_path / 'm', picture)
  assert str(caught.value).startswith(f'{tmp_path / "m"}: {said}')


def test_jpeg_masks(tmp_path):
  y, x = np.indices((64, 64))
  disk = (np.hypot(y - 32, x - 32) < 20).astype(np.uint8)
  Image.fromarray(disk * 200).save(tmp_path / 'disk.jpg')
  with pytest.raises(InputError, match='JPEG has altered the values of the mask; save it as PNG'):
    trajectory.read_mask(tmp_path / 'disk.jpg')
  # JPEG keeps black and white where edges are aligned with its blocks.
  half = (x < 32).astype(np.uint8) * 255
  Image.fromarray(half).save(tmp_path / 'half.jpg', quality=95)
  np.testing.assert_array_equal(trajectory.read_mask(tmp_path / 'half.jpg'), half // 255)


def test_cut_outs(tmp_path):
  """A transparent background leaves one object; smoothed edges are thresholded at half."""
  rng = np.random.default_rng(0)
  photo = rng.integers(1, 255, (30, 30, 4), np.uint8)
  photo[..., 3] = 0
  photo[5:25, 5:25, 3] = 255
  Image.fromarray(photo).save(tmp_path / 'a.png')
  notes = []
  mask = trajectory.read_mask(tmp_path / 'a.png', notes)
  np.testing.assert_array_equal(mask, photo[..., 3] // 255)
  assert notes == [f'{tmp_path / "a.png"}: its opaque pixels read as one object']
  soft = np.full((1, 5, 4), 255, np.uint8)
  soft[0, :, 3] = 0, 100, 128, 200, 255
  Image.fromarray(soft).save(tmp_path / 'b.png')
  assert trajectory.read_mask(tmp_path / 'b.png').tolist() == [[0, 0, 1, 1, 1]]
  faint = np.where(soft[..., 3:] > 0, np.uint8([255, 255, 255, 100]), 0).astype(np.uint8)
  Image.fromarray(faint).save(tmp_path / 'c.png')
  assert trajectory.read_mask(tmp_path / 'c.png').tolist() == [[0, 1, 1, 1, 1]]


def test_a_turned_mask(tmp_path):
  mask = np.zeros((4, 6), np.uint8)
  mask[0, :3] = 2
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(mask).transpose(Image.Transpose.ROTATE_90).save(tmp_path / 'a.png', exif=exif)
  np.testing.assert_array_equal(trajectory.read_mask(tmp_path / 'a.png'), mask)
  assert label_images.mask_size(tmp_path / 'a.png') == (4, 6)


def test_animations_are_no_masks(tmp_path):
  a, b = (Image.fromarray(grey(0, k)) for k in (1, 2))
  a.save(tmp_path / 'a.gif', save_all=True, append_images=[b])
  with pytest.raises(InputError, match=r'a\.gif: holds 2 pictures; save each mask as one file'):
    trajectory.read_mask(tmp_path / 'a.gif')


@pytest.mark.parametrize('kind', ['reduced', 'optimized', 'same', 'grown', 'gif', 'rgb'])
def test_edited_trajectories(tmp_path, kind):
  """Editors and optimizers change our PNGs, but not the objects."""
  ids = np.zeros((5, 16, 16), np.uint8)
  for t in range(5):
    ids[t, 1:4, t : t + 4], ids[t, 6:10, 2:8], ids[t, 12:, 12 - t :] = 5, 2, 8
  ids[3:][ids[3:] == 2] = 0
  trajectory.write_folder(tmp_path / 'given', ids)
  (tmp_path / kind).mkdir()
  wanted = ids
  for t, file in enumerate(sorted((tmp_path / 'given').iterdir())):
    image = Image.open(file)
    to = tmp_path / kind / file.name
    if kind == 'reduced':
      reduced(ids[t], OURS).save(to)
    elif kind == 'grown':
      image.resize((64, 64), Image.Resampling.NEAREST).save(to)
      wanted = ids.repeat(4, 1).repeat(4, 2)
    elif kind == 'gif':
      image.save(to.with_suffix('.gif'))
    elif kind == 'rgb':
      image.convert('RGB').save(to)
    else:
      image.save(to, optimize=kind == 'optimized')
  (tmp_path / kind / '._00000.png').write_bytes(b'\0\5\26\7' + b'\0' * 100)
  (tmp_path / kind / '.DS_Store').write_bytes(b'x')
  (tmp_path / kind / 'Thumbs.db').write_bytes(b'x')
  np.testing.assert_array_equal(trajectory.read_folder(tmp_path / kind), wanted)


def test_palettes_that_contradict_each_other(tmp_path):
  """Index 1 is red in one frame and green in the next: only the colors identify the objects."""
  red_first = np.array([BLACK, RED, GREEN], np.uint8)
  green_first = red_first[[0, 2, 1]]
  pictures = palette(grey(0, 1), red_first), palette(grey(1, 2), green_first)
  ids, notes = read(tmp_path / 'm', *pictures)
  assert ids == [[0, 1], [2, 1]] and notes == ['colors #c81e1e, #1ec81e read as 1, 2']
  white = np.array([WHITE, RED, GREEN], np.uint8)
  with pytest.raises(InputError, match='no pixel is black'):
    read(tmp_path / 'n', palette(grey(0, 1), white), palette(grey(0, 1), white[[0, 2, 1]]))


def test_masks_that_change_while_they_are_read(tmp_path):
  file = tmp_path / 'a.png'
  Image.fromarray(grey(0, 1)).save(file)
  meaning = label_images.meaning_of([file], trajectory.PALETTES['spread8'], 'a')
  assert label_images.read_mask_file(file, meaning).tolist() == [[0, 1]]
  Image.fromarray(grey(0, 7)).save(file)
  with pytest.raises(InputError, match=r'a\.png: was changed while it was read'):
    label_images.read_mask_file(file, meaning)


def test_a_mask_of_another_size():
  picture = np.zeros((4, 6, 3), np.uint8)
  label_images.check_size(picture, np.zeros((4, 6), np.uint8))
  with pytest.raises(InputError, match=r'mask is 4 x 6 but .* 6 x 4 pixels.*stored sideways'):
    label_images.check_size(picture, np.zeros((6, 4), np.uint8))
