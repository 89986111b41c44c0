"""Images of every usual kind are read as viewers show them."""

import ast
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tiny_png
from ttm_jax.errors import InputError
from ttm_jax.media import images

ROOT = pathlib.Path(__file__).parents[2]
RAMP = np.broadcast_to(np.arange(0, 256, 5, dtype=np.uint8), (6, 52)).copy()
COLORS = np.stack([RAMP, RAMP[:, ::-1], RAMP // 2], axis=-1)


def grey(values):
  return np.repeat(values[..., None], 3, axis=-1)


DEEP = {
  'sixteen.png': Image.fromarray(RAMP.astype(np.uint16) * 257),
  'sixteen.tif': Image.fromarray(RAMP.astype(np.uint16) * 257),
  'whole.tif': Image.fromarray(RAMP.astype(np.int32) * 257),
  'bytes.tif': Image.fromarray(RAMP.astype(np.int32)),
  'floats.tif': Image.fromarray(RAMP.astype(np.float32)),
  'shares.tif': Image.fromarray(RAMP.astype(np.float32) / 255),
  'eight.png': Image.fromarray(RAMP),
  'opaque.png': Image.fromarray(RAMP).convert('LA'),
  'palette.gif': Image.fromarray(RAMP),
}


@pytest.mark.parametrize('name', DEEP)
def test_grey_pictures_of_any_depth(tmp_path, name):
  DEEP[name].save(tmp_path / name)
  np.testing.assert_array_equal(images.read_image(tmp_path / name), grey(RAMP))


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_grey_pictures_of_few_bits(tmp_path, bits):
  values = RAMP.astype(int)
  values = values >> (8 - bits) if bits <= 8 else values * 257
  (tmp_path / 'a.png').write_bytes(tiny_png.grey(values, bits, interlaced=True))
  wanted = np.rint(values * 255 / (2**bits - 1)).astype(np.uint8)
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), grey(wanted))


def test_twelve_bits_and_zero_as_white(tmp_path):
  values = (RAMP.astype(np.uint16) * 257) >> 4
  image = Image.fromarray(values)
  # Pillow does not write 12 bits: change the tag of an image with 16 bits per value by hand.
  assert images._eight_bits(values, image, (12, False), 'a').tolist() == RAMP.tolist()
  wanted = (255 - RAMP.astype(int)).tolist()
  assert images._eight_bits(values, image, (12, True), 'a').tolist() == wanted


@pytest.mark.parametrize(
  'image, said',
  [
    (Image.fromarray(np.float32([[0, np.nan]])), 'grey values from nan to nan, of no known range'),
    (Image.fromarray(np.float32([[0, 300]])), 'grey values up to 300, of no known range; save it'),
    (Image.fromarray(np.int32([[-1, 3]])), 'grey values from -1 to 3, of no known range'),
    (Image.fromarray(np.int32([[0, 2**20]])), r'grey values up to 1\.04858e\+06'),
  ],
)
def test_values_of_no_known_range(tmp_path, image, said):
  image.save(tmp_path / 'a.tif')
  with pytest.raises(InputError, match=rf'a\.tif: has {said}'):
    images.read_image(tmp_path / 'a.tif')


def hidden(mode):
  """Return two opaque columns on a transparent background of another color."""
  alpha = np.zeros(RAMP.shape, np.uint8)
  alpha[:, 10:12] = 255
  image = Image.fromarray(np.dstack([COLORS, alpha]))
  return image.convert('LA').convert('La') if mode == 'La' else image.convert(mode)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'PA', 'RGBa', 'La'])
def test_transparent_pixels_are_white(mode):
  image = hidden(mode)
  notes = []
  pixels = images.to_rgb(image, notes, 'photo')
  assert pixels.dtype == np.uint8 and pixels.shape == COLORS.shape
  assert (pixels[:, :10] == 255).all() and (pixels[:, 12:] == 255).all()
  shown = np.asarray(Image.fromarray(COLORS).convert('L').convert('RGB'))
  wanted = shown if mode in ('LA', 'La') else COLORS
  if mode != 'PA':
    np.testing.assert_array_equal(pixels[:, 10:12], wanted[:, 10:12])
  assert notes == ['photo: transparent pixels became white']


def test_marked_colors_are_transparent(tmp_path):
  image = Image.fromarray(COLORS)
  image.save(tmp_path / 'a.png', transparency=(0, 255, 0))
  wanted = COLORS.copy()
  wanted[:, 0] = 255
  assert (COLORS[:, 0] == (0, 255, 0)).all()
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), wanted)
  quantized = Image.fromarray(COLORS[:, :8].copy()).quantize(8)
  first = quantized.getpixel((0, 0))
  quantized.save(tmp_path / 'b.png', transparency=first)
  pixels = images.read_image(tmp_path / 'b.png')
  assert (pixels[:, 0] == 255).all() and not (pixels[:, 5] == 255).all()
  deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
  deep.info['transparency'] = 0
  assert images.to_rgb(deep)[0, :3, 0].tolist() == [255, 5, 10]


def test_half_transparent_pixels_are_mixed_with_white():
  image = Image.fromarray(np.uint8([[[0, 0, 0, 51], [0, 0, 0, 255], [10, 20, 30, 0]]]))
  assert images.to_rgb(image)[0].tolist() == [[204] * 3, [0] * 3, [255] * 3]


def test_opaque_pictures_need_no_note(tmp_path):
  notes = []
  images.to_rgb(Image.fromarray(COLORS).convert('RGBA'), notes)
  assert notes == []


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('mode', ['RGB', 'L', 'I;16', 'P', 'RGBA'])
def test_pictures_are_turned_upright(tmp_path, mode, orientation):
  stored = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
  picture = Image.fromarray(RAMP.astype(np.uint16) * 257) if mode == 'I;16' else None
  picture = picture or Image.fromarray(COLORS).convert(mode)
  upright = images.to_rgb(picture)
  exif = Image.Exif()
  exif[0x0112] = orientation
  turned = picture if stored is None else picture.transpose(Image.Transpose(stored))
  turned.save(tmp_path / 'a.png', exif=exif)
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), upright)
  with Image.open(tmp_path / 'a.png') as image:
    np.testing.assert_array_equal(images.to_rgb(image), upright)


@pytest.mark.parametrize('mode', ['CMYK', 'YCbCr', 'HSV', 'RGBX', '1', 'P'])
def test_other_colors(mode):
  image = Image.fromarray(COLORS).convert(mode)
  np.testing.assert_array_equal(images.to_rgb(image), np.asarray(image.convert('RGB')))


@pytest.mark.slow
def test_a_picture_of_200_megapixels(tmp_path):
  Image.new('1', (16320, 12240), 1).save(tmp_path / 'phone.png')
  pixels = images.read_image(tmp_path / 'phone.png')
  assert pixels.shape == (12240, 16320, 3) and pixels[::1000, ::1000].min() == 255


def test_a_picture_beyond_the_limit(tmp_path):
  before = Image.MAX_IMAGE_PIXELS
  Image.new('1', (2**15, 2**14 + 1)).save(tmp_path / 'more.png')
  with pytest.raises(InputError, match=r'more\.png: has more than 537 megapixels; scale it down'):
    images.read_image(tmp_path / 'more.png')
  assert before == Image.MAX_IMAGE_PIXELS  # A setting of the whole process: unchanged.


POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n'


@pytest.mark.parametrize(
  'content, said',
  [
    (None, 'there is no such image; check the path'),
    (b'', 'not a readable image; use PNG or JPEG'),
    (b'nothing', 'not a readable image; use PNG or JPEG'),
    (POSTSCRIPT, 'a vector graphic, not a picture of pixels; export it as PNG'),
    (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'a vector graphic, not a picture of pixels'),
    (b'\0\0\0\x1cftypheic' + b'\0' * 99, 'a HEIC picture, which is not read; convert it to JPEG'),
  ],
)
def test_what_is_no_picture(tmp_path, content, said):
  if content is not None:
    (tmp_path / 'x.png').write_bytes(content)
  with pytest.raises(InputError) as caught:
    images.read_image(tmp_path / 'x.png')
  assert str(caught.value).startswith(f'{tmp_path / "x.png"}: {said}')


def test_a_damaged_picture(tmp_path):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
  for name in ('a.jpg', 'a.png', 'a.webp', 'a.tif', 'a.gif', 'a.bmp'):
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf'{name}: not a readable image; use PNG or JPEG'):
      images.read_image(tmp_path / name)


def test_postscript_under_another_name_runs_no_program(tmp_path):
  """Pillow would pass it to Ghostscript; a fake `gs` shows whether anything was run."""
  (tmp_path / 'bin').mkdir()
  planted = tmp_path / 'bin' / 'gs'
  planted.write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\n')
  planted.chmod(0o755)
  (tmp_path / 'x.png').write_bytes(POSTSCRIPT)
  code = (
    'from ttm_jax import trajectory\n'
    'from ttm_jax.media import images\n'
    'from ttm_jax.errors import InputError\n'
    'for read in (images.read_image, trajectory.read_mask):\n'
    '  try:\n    read("x.png")\n  except InputError as error:\n    print(error)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={'PATH': f'{tmp_path}/bin:/usr/bin:/bin', 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.stdout.count('x.png: a vector graphic') == 2, done.stderr
  assert not (tmp_path / 'ran').exists()


def test_no_picture_is_opened_without_a_list_of_formats():
  """Each call of `Image.open` lists the formats that may be read."""
  calls = {}
  for package in ('ttm_jax', 'data_tools', 'configs'):
    for path in (ROOT / package).rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith('Image.open'):
          calls.setdefault(str(path.relative_to(ROOT)), []).append(
            'formats' in {keyword.arg for keyword in node.keywords}
          )
  assert calls == {'ttm_jax/media/images.py': [True]}
  assert not {'EPS', 'PS', 'WMF'} & {*images.FORMATS}


def test_pictures_of_a_folder_in_order(tmp_path):
  for name in ('f10.jpg', 'f9.PNG', 'f1.jpeg', '._f1.jpg', 'notes.txt', 'f2.webp', 'Thumbs.db'):
    (tmp_path / name).write_bytes(b'')
  (tmp_path / '__MACOSX').mkdir()
  assert [f.name for f in images.list_pictures(tmp_path)] == ['f1.jpeg', 'f9.PNG', 'f10.jpg']
