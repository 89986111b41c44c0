"""Images and masks as users pass them to the commands and to the exported pipeline."""

import argparse

import numpy as np
import pytest
from PIL import Image

from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.inference import command as animation
from ttm_jax.inference.request import Request
from ttm_jax.pytorch import pipeline_arguments

EXIF_ROTATED = 6  # Shown rotated by a clockwise quarter turn.


def photo():
  pixels = np.zeros((8, 12, 3), np.uint8)
  pixels[..., 0], pixels[..., 1] = np.arange(12) * 20, np.arange(8)[:, None] * 30
  return pixels


def mask(label=1):
  ids = np.zeros((8, 12), np.uint8)
  ids[2:5, 3:9] = label
  return ids


def turned(image, path):
  """Write an image stored sideways, with EXIF data that rotates it upright."""
  exif = Image.Exif()
  exif[0x0112] = EXIF_ROTATED
  image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def test_pipeline_turns_pictures_upright(tmp_path):
  turned(Image.fromarray(photo()), tmp_path / 'a.png')
  np.testing.assert_array_equal(pipeline_arguments._rgb(Image.open(tmp_path / 'a.png')), photo())
  turned(Image.fromarray(mask()), tmp_path / 'b.png')
  np.testing.assert_array_equal(pipeline_arguments._labels(Image.open(tmp_path / 'b.png')), mask())


def test_pipeline_reads_deep_and_transparent_pictures():
  grey = photo()[..., 0]
  deep = Image.fromarray(grey.astype(np.uint16) * 257)
  np.testing.assert_array_equal(
    pipeline_arguments._rgb(deep), np.repeat(grey[..., None], 3, axis=-1)
  )
  cut_out = Image.fromarray(np.dstack([photo(), mask() * 255]))
  with pytest.warns(UserWarning, match='image: transparent pixels became white'):
    pixels = pipeline_arguments._rgb(cut_out)
  np.testing.assert_array_equal(pixels, np.where(mask()[..., None] > 0, photo(), 255))
  for channels in (1, 2, 4):
    with pytest.raises(InputError, match=f'image has {channels} channels; give RGB'):
      pipeline_arguments._rgb(np.zeros((4, 4, channels), np.uint8))


def test_pipeline_reads_masks_of_any_kind():
  for image in (
    Image.fromarray(mask() > 0),
    Image.fromarray(mask(255)),
    Image.fromarray(np.repeat(mask(255)[..., None], 3, axis=-1)),
    Image.fromarray(mask().astype(np.uint16)),
  ):
    notes = image.mode in ('L', 'RGB')
    if notes:
      with pytest.warns(UserWarning, match='segmentation: white on black read as one object'):
        ids = pipeline_arguments._labels(image)
    else:
      ids = pipeline_arguments._labels(image)
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, mask())
  with pytest.raises(InputError, match='segmentation: holds 99 values, as smoothing'):
    pipeline_arguments._labels(Image.fromarray(np.arange(100, dtype=np.uint8)[None]))


def described(tmp_path, *more):
  parser = argparse.ArgumentParser()
  animation.add_flags(parser)
  flags = [f'--image={tmp_path}/photo.png', f'--segmentation={tmp_path}/mask.png', '--prompt=x']
  args = parser.parse_args([*flags, f'--out={tmp_path}/out.mp4', *more])
  return animation.described_by(args, tmp_path / 'out.mp4')


def test_what_was_done_is_printed_once(tmp_path, capsys):
  Image.fromarray(np.dstack([photo(), mask() * 255])).save(tmp_path / 'photo.png')
  Image.fromarray(mask(17)).save(tmp_path / 'mask.png')
  found = described(tmp_path)
  np.testing.assert_array_equal(found.segmentation, mask())
  np.testing.assert_array_equal(found.picture, np.where(mask()[..., None] > 0, photo(), 255))
  assert capsys.readouterr().out.splitlines() == [
    f'{tmp_path}/photo.png: transparent pixels became white',
    f'{tmp_path}/mask.png: value 17 renumbered to 1',
  ]
  trajectory.write_folder(tmp_path / 'same', np.stack([mask(3)] * 2))
  for file in (tmp_path / 'same').iterdir():
    Image.open(file).convert('RGB').save(file)
  np.testing.assert_array_equal(
    animation.read_trajectory(str(tmp_path / 'same')), np.stack([mask(3)] * 2)
  )
  assert capsys.readouterr().out.splitlines() == [
    f"{tmp_path}/same: objects told by their colors in this package's palette"
  ]
  Image.fromarray(photo()).save(tmp_path / 'photo.png')
  Image.fromarray(mask(2)).save(tmp_path / 'mask.png')
  described(tmp_path)
  assert capsys.readouterr().out == ''


def test_a_mask_drawn_on_the_picture_as_stored(tmp_path):
  """A mask without EXIF data does not fit, and the error says why."""
  turned(Image.fromarray(photo()), tmp_path / 'photo.png')
  Image.fromarray(mask()).transpose(Image.Transpose.ROTATE_90).save(tmp_path / 'mask.png')
  with pytest.raises(InputError, match='may be stored sideways, with a note to turn it: turn the'):
    described(tmp_path)
  with pytest.raises(InputError, match='may be stored sideways'):
    Request(photo(), mask().T, 'x', 'x', {})
