"""Sampling at other sizes: those of the training, and others that the network can place."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.helpers import cli, exported, tiny
from ttm_jax.data.context import Shape
from ttm_jax.errors import InputError
from ttm_jax.inference import sizes
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.media.video_reader import read_video
from ttm_jax.models.dit.preset import PRESET as DIT

OWN, WIDE, IMAGE = (4, 16, 16), (6, 16, 24), (1, 16, 16)
GRID = (4, 4, 8)  # Latents that the network can place: 8 frames of 16 x 32 pixels.


def context(preset='dit'):
  """The context of a run on a mixture of three shapes."""
  made = exported.context(preset)
  if preset != 'dit':
    return made
  shapes = [
    Shape(*size, DIT.grids(tiny_model(), size[1] // 4, size[2] // 4), weight)
    for size, weight in ((WIDE, 0.3), (OWN, 0.5), (IMAGE, 0.2))
  ]
  return dataclasses.replace(made, mixed=tuple(shapes))


def settings(number=exported.STAGE2, preset='dit'):
  changes = {'model__grid': GRID} if preset == 'dit' else {}
  return exported.config(preset, number, **changes)


def tiny_model():
  return DIT.config(**settings().model)


@pytest.mark.parametrize('text', ['', '16', '16x', 'x16', '16x16x16', '0x16', '-16x16', '16x1e3'])
def test_sizes_that_cannot_be_read(text):
  with pytest.raises(InputError, match='write WIDTHxHEIGHT in pixels, such as 832x480'):
    sizes.parse_size(text)


def test_a_size_is_width_by_height():
  assert sizes.parse_size('832x480') == sizes.parse_size('832X480') == (480, 832)


@pytest.mark.parametrize(
  'frames, sides, wanted',
  [
    (None, None, OWN),
    (None, (16, 24), WIDE),  # Trained with 6 frames, so these are taken.
    (6, None, WIDE),
    (1, None, IMAGE),
    (4, (16, 24), (4, 16, 24)),
    (8, None, (8, 16, 16)),
    (None, (24, 24), (4, 24, 24)),
  ],
)
def test_what_flags_leave_open_is_as_in_training(frames, sides, wanted):
  assert sizes.choose(context(), frames, sides) == wanted


def test_no_frames_are_refused():
  with pytest.raises(InputError, match='--frames 0: must be at least 1'):
    sizes.choose(context(), 0, None)


@pytest.mark.parametrize(
  'size, grid, latents',
  [
    (OWN, (2, 2), (2, 4, 4)),
    (WIDE, (2, 3), (3, 4, 6)),
    (IMAGE, (2, 2), (1, 4, 4)),
    ((7, 16, 32), (2, 4), (4, 4, 8)),  # Not trained.
    ((2, 8, 8), (1, 1), (1, 2, 2)),
  ],
)
def test_sizes_that_can_be_placed(size, grid, latents):
  found = sizes.context_at('run', settings(), context(), size)
  encoding = found.encoding
  assert (encoding.frames, encoding.height, encoding.width) == size
  assert (encoding.grids, found.latent_shape[:3]) == ((grid,), latents)


@pytest.mark.parametrize(
  'size, reason, nearest',
  [
    ((4, 18, 16), 'the codec takes multiples of 4 x 4 pixels', '--frames 4 --size 16x16'),
    ((4, 16, 20), 'latents of 4 x 5 do not divide into tokens', '--frames 4 --size 16x16'),
    ((4, 16, 21), 'the codec takes multiples', '--frames 4 --size 24x16'),
    ((6, 16, 60), 'the codec takes|latents of the dataset', '--frames 6 --size 32x16'),
    ((9, 16, 16), 'latents of the dataset are', '--frames 8 --size 16x16'),
    ((10**9, 16, 16), 'take more than', '--frames 8 --size 16x16'),
    ((4, 2, 16), 'the codec takes multiples', '--frames 4 --size 16x8'),
  ],
)
def test_the_nearest_size_is_named(size, reason, nearest):
  with pytest.raises(InputError, match=reason) as error:
    sizes.context_at('runs/a', settings(), context(), size)
  said = str(error.value)
  assert said.startswith(f'run runs/a cannot sample {size[0]} frames of {size[2]} x {size[1]} (')
  assert said.endswith(
    f'): the nearest is {nearest}; it was trained on 6 frames of 24 x 16, 4 frames of 16 x 16, 1'
    ' frame of 16 x 16'
  )


def test_the_unet_has_its_own_sizes():
  where, config = context('unet'), settings(preset='unet')
  assert sizes.context_at('run', config, where, (6, 16, 24)).latent_shape[:3] == (3, 8, 12)
  with pytest.raises(
    InputError, match=r'cannot be halved .* the nearest is --frames 4 --size 16x16'
  ):
    sizes.context_at('run', config, where, (4, 16, 18))


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Runs of both stages on the mixture, with random weights."""
  folder, where, made = tmp_path_factory.mktemp('runs'), context(), []
  for number in (exported.STAGE1, exported.STAGE2):
    config = settings(number)
    config.process.steps = 2
    params = exported.parameters(config, where, number)
    made.append(exported.save_run(folder / f'stage{number + 1}', config, where, params))
  return made


@pytest.mark.parametrize('size', [OWN, WIDE, IMAGE, (8, 16, 16)])
def test_the_stages_sample_at_a_size(runs, size):
  pipeline = Pipeline(Stage(runs[0], STAGE1, size=size), Stage(runs[1], STAGE2, size=size))
  request = exported.request().fitted(*size[1:])
  ids = pipeline.trajectories([request], 0)
  assert ids.shape == (1, *size)
  video = pipeline.videos([request], ids, 0)
  assert video.shape == (1, *size, 3) and video.std() > 1


@pytest.fixture
def generate(runs, tmp_path):
  """Run `ttm_jax.generate` with more flags; return its result and the output."""
  request = exported.request()
  Image.fromarray(request.picture).save(tmp_path / 'photo.png')
  Image.fromarray(request.mask).save(tmp_path / 'mask.png')

  def run(*flags):
    ended = cli.run(
      'ttm_jax.generate',
      *(
        f'--image={tmp_path}/photo.png',
        f'--segmentation={tmp_path}/mask.png',
        '--prompt=It moves',
      ),
      *(f'--stage1={runs[0]}', f'--stage2={runs[1]}', f'--out={tmp_path}/out.mp4', *flags),
    )
    return ended, tmp_path / 'out.mp4'

  return run


def test_the_command_takes_a_size(generate, runs):
  ended, out = generate('--size=24x16')
  assert ended.code == 0, ended.err
  assert read_video(out)[0].shape == (6, 16, 24, 3)
  assert 'not trained' not in ended.out


def test_the_command_says_what_it_was_not_trained_on(generate, runs):
  ended, out = generate('--size=32x16', '--frames=5')
  assert ended.code == 0, ended.err
  assert read_video(out)[0].shape == (5, 16, 32, 3)
  assert f'run {runs[1]} was not trained at this size, but on 6 frames of 24 x 16, 4' in ended.out


def test_the_command_refuses_before_it_computes(generate, runs):
  ended, out = generate('--size=30x16')
  assert (ended.code, out.exists()) == (2, False)
  assert ended.err == (
    f'error: run {runs[0]} cannot sample 4 frames of 30 x 16 (the codec takes multiples of 4 x 4'
    ' pixels): the nearest is --frames 4 --size 32x16; it was trained on 6 frames of 24 x 16, 4'
    ' frames of 16 x 16, 1 frame of 16 x 16\n'
  )


def test_stages_of_one_size_only():
  """A run on one dataset samples at others as well."""
  where = exported.context('dit')
  found = sizes.context_at('run', settings(), where, (6, 8, 8))
  assert found.latent_shape == (3, 2, 2, tiny.CHANNELS)
  np.testing.assert_array_equal(found.null_text['text.words.caption'].shape, (1, 16))
