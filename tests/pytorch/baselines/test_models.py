"""Sizes, lengths and rates of the baselines: the table, and the plan of a clip in closed form."""

import itertools

import numpy as np
import pytest

from ttm_jax.pytorch.baselines.models import BASELINES, Plan


@pytest.mark.parametrize('name', BASELINES)
def test_the_table_is_consistent(name):
  model = BASELINES[name]
  assert list(model.lengths) == sorted({*model.lengths}) and model.lengths[0] > 0
  assert not model.multiple or all(side % model.multiple == 0 for side in model.size)
  if model.pipeline.startswith('Wan'):  # Its autoencoders take 4 n + 1 frames.
    assert all(length % 4 == 1 for length in model.lengths)


@pytest.mark.parametrize(
  'name, clip, fps, size, frames, speed',
  [
    # 128 frames at 24 fps last 5.29 s: 85.7 frames at 16 fps, of which Wan takes 81 at most.
    ('wan-i2v', (128, 256, 256), 24, (624, 624), 81, (80 / 16) / (127 / 24)),
    # 16 frames at 6 fps last 2.5 s: 41 frames at 16 fps.
    ('wan-i2v', (16, 512, 512), 6, (624, 624), 41, 1.0),
    ('wan-i2v', (16, 480, 832), 6, (480, 832), 41, 1.0),
    ('wan22-ti2v-5b', (128, 256, 256), 24, (960, 960), 121, 120 / 127),
    ('wan22-ti2v-5b', (121, 256, 256), 24, (960, 960), 121, 1.0),
    ('cogvideox-i2v', (128, 256, 256), 24, (480, 720), 49, 1.0),
    ('svd', (16, 512, 512), 6, (768, 768), 25, 1.0),
    ('svd', (128, 256, 256), 24, (768, 768), 25, (24 / 7) / (127 / 24)),
    ('i2vgen-xl', (16, 512, 512), 6, (960, 960), 16, (15 / 16) / (15 / 6)),
    ('wan-i2v', (1, 256, 256), 8, (624, 624), 5, 1.0),
  ],
)
def test_the_nearest_size_and_length(name, clip, fps, size, frames, speed):
  plan = Plan.of(BASELINES[name], clip, fps)
  assert (plan.size, plan.frames) == (size, frames)
  assert plan.speed == pytest.approx(speed)
  assert len(plan.indices) == clip[0] and plan.indices[0] == 0 and max(plan.indices) < frames
  assert all(a <= b for a, b in itertools.pairwise(plan.indices))
  if speed < 1:
    assert plan.indices[-1] == frames - 1
  else:
    at = np.array(plan.indices) / BASELINES[name].fps  # Seconds.
    wanted = np.arange(clip[0]) / fps
    assert np.abs(at - wanted).max() <= 0.5 / BASELINES[name].fps + 1e-9


def test_equal_rates_take_every_frame_once():
  plan = Plan.of(BASELINES['wan-i2v'], (81, 480, 832), 16)
  assert plan.indices == tuple(range(81)) and plan.box == (0, 0, 832, 480)


def test_a_model_of_one_size_gets_the_whole_image_and_mirrored_surroundings():
  plan = Plan.of(BASELINES['cogvideox-i2v'], (4, 240, 240), 8)
  assert plan.size == (480, 720) and plan.box == (120, 0, 600, 480)
  ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[:, None], (240, 240, 3))
  picture = np.stack([ramp[..., 0].T, ramp[..., 0], ramp[..., 0]], -1)  # Red grows to the right.
  condition = plan.condition(picture)
  assert condition.shape == (480, 720, 3)
  np.testing.assert_array_equal(condition[:, :120], condition[:, 120:240][:, ::-1])
  np.testing.assert_array_equal(condition[:, 600:], condition[:, 480:600][:, ::-1])
  # The box of the output is the image again.
  video = np.broadcast_to(condition, (49, *condition.shape))
  fitted = plan.fitted(video)
  assert fitted.shape == (4, 240, 240, 3) and fitted.dtype == np.uint8
  assert np.abs(fitted.astype(int) - picture).max() <= 2


def test_a_given_size_is_used():
  plan = Plan.of(BASELINES['wan-i2v'], (16, 64, 64), 6, (64, 64))
  assert plan.size == (64, 64) and plan.box == (0, 0, 64, 64)


def test_frames_are_taken_by_time():
  plan = Plan.of(BASELINES['wan-i2v'], (5, 16, 16), 8, (16, 16))
  video = np.arange(plan.frames, dtype=np.uint8)[:, None, None, None] * np.ones(
    (1, 16, 16, 3), np.uint8
  )
  assert plan.frames == 9
  np.testing.assert_array_equal(plan.fitted(video)[:, 0, 0, 0], [0, 2, 4, 6, 8])
