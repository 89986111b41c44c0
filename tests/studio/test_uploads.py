"""Pictures and masks that users upload."""

import io

import numpy as np
import pytest
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.studio import uploads

SIZE = 32, 48


def encoded(array, kind='PNG', **options):
  file = io.BytesIO()
  Image.fromarray(array).save(file, kind, **options)
  return file.getvalue()


def noise(height, width):
  return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_picture_of_the_size_of_the_model_is_kept():
  pixels, notes = uploads.read_picture(encoded(noise(*SIZE)), 'a.png', SIZE)
  assert (pixels == noise(*SIZE)).all() and notes == []


def test_another_size_is_said():
  pixels, notes = uploads.read_picture(encoded(noise(100, 100)), 'a.png', SIZE)
  assert pixels.shape == (*SIZE, 3)
  assert notes == ['a.png: resized and cropped from 100 x 100 to 48 x 32']


def test_an_animation_gives_its_first_frame():
  frames = [Image.fromarray(np.full((*SIZE, 3), value, np.uint8)) for value in (10, 200)]
  file = io.BytesIO()
  frames[0].save(file, 'WEBP', save_all=True, append_images=frames[1:], lossless=True)
  pixels, notes = uploads.read_picture(file.getvalue(), 'a.webp', SIZE)
  assert (pixels == 10).all() and notes == ['a.webp is animated: its first frame is used']


def header(width, height):
  """Return a PNG that claims a size, without its pixels."""
  content = bytearray(encoded(noise(16, 16)))
  content[16:24] = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
  import zlib

  content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
  return bytes(content)


@pytest.mark.parametrize(
  'content, message',
  [
    (b'', 'a.png: not a readable image'),
    (b'hello', 'a.png: not a readable image'),
    (encoded(noise(64, 64))[:900], 'a.png: damaged, or not an image'),
    (encoded(noise(8, 8)), '8 x 8 pixels; each side must have 16 at least'),
    (encoded(noise(300, 8)), '8 x 300 pixels; each side'),
    (header(30_000, 30_000), '30000 x 30000|more than 537 megapixels'),
    (header(30_000, 20), '30000 x 20 pixels; scale it down to 16384 a side'),
    (header(10_000, 10_000), '10000 x 10000 pixels; scale it down .* 50 megapixels'),
    (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'a vector graphic'),
    (b'\0\0\0\x18ftypheic', 'a HEIC picture'),
  ],
)
def test_bad_pictures(content, message):
  with pytest.raises(InputError, match=message) as told:
    uploads.read_picture(content, 'a.png', SIZE)
  assert '/tmp' not in str(told.value)


def objects():
  ids = np.zeros(SIZE, np.uint8)
  ids[4:10, 4:12], ids[20:28, 30:40] = 1, 2
  return ids


def test_masks_of_any_usual_form():
  ids = objects()
  colored = np.take(np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8), ids, axis=0)
  palette = Image.fromarray(ids)
  palette.putpalette(bytes([0, 0, 0, 255, 0, 0, 0, 255, 0]))
  file = io.BytesIO()
  palette.save(file, 'PNG')
  for content in (encoded(ids), encoded(colored), file.getvalue(), encoded(colored, 'BMP')):
    assert (uploads.read_mask(content, 'm.png', SIZE)[0] == ids).all()
  white, notes = uploads.read_mask(encoded((ids > 0) * np.uint8(255)), 'm.png', SIZE)
  assert (white == (ids > 0)).all() and notes == ['m.png: white on black read as one object']


def test_a_mask_of_another_size():
  larger = objects().repeat(2, 0).repeat(2, 1)
  mask, notes = uploads.read_mask(encoded(larger), 'm.png', SIZE)
  assert (mask == objects()).all() and notes == []
  mask, notes = uploads.read_mask(encoded(larger[:, :60]), 'm.png', SIZE)
  assert mask.shape == SIZE and 'of another shape than the picture' in notes[0]


@pytest.mark.parametrize(
  'array, message',
  [
    (np.arange(300, dtype=np.uint16).reshape(20, 15).repeat(4, 0), '15|300 values|each side'),
    (np.arange(320, dtype=np.uint16).reshape(20, 16), 'm.png: holds 319 values'),
    (np.zeros(SIZE, np.uint8), 'm.png shows no object'),
    (noise(*SIZE), 'm.png'),
    (np.arange(13, dtype=np.uint8).repeat(20).reshape(13, 20).repeat(2, 0), 'holds 12 objects'),
  ],
)
def test_bad_masks(array, message):
  with pytest.raises(InputError, match=message) as told:
    uploads.read_mask(encoded(array), 'm.png', SIZE)
  assert '/tmp' not in str(told.value)


def test_a_mask_without_objects_after_cropping():
  ids = np.zeros((100, 20), np.uint8)
  ids[:3] = 1
  with pytest.raises(InputError, match='no object is left after cropping to 48 x 32'):
    uploads.read_mask(encoded(ids), 'm.png', SIZE)


@pytest.mark.parametrize(
  'name, shown',
  [
    ('../../etc/passwd', 'passwd'),
    ('C:\\photos\\dog.png', 'dog.png'),
    ('<img src=x>.png', '_img src_x_.png'),
    ('a\nb', 'a_b'),
    ('', 'the file'),
    (None, 'the file'),
    ('x' * 300 + '.png', 'x' * 76 + '.png'),
  ],
)
def test_names_that_are_shown(name, shown):
  assert uploads.safe_name(name) == shown
