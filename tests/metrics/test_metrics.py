"""PSNR, SSIM, trajectory IoU, motion classes, and segmentation by color."""

import json
import os
import pathlib

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from ttm_jax.errors import InputError
from ttm_jax.metrics.adherence import adherence, find_by_color
from ttm_jax.metrics.motion import DIRECTIONAL, centroids, mean_iou, moves_as_prompted, object_iou
from ttm_jax.metrics.video import psnr, ssim
from ttm_jax.scenes.captions import MOTIONS
from ttm_jax.scenes.generator import SceneConfig, layout, scene

SHARED = pathlib.Path(os.environ.get('TTM_SHARED_DATA', '../shared/data')) / 'metrics_reference'


def noise_pair(shape=(3, 20, 24, 3), strength=12):
  rng = np.random.default_rng(0)
  a = rng.integers(0, 256, shape).astype(float)
  b = a + rng.normal(0, strength, shape)
  return a.astype(np.uint8), b.clip(0, 255).astype(np.uint8)


def test_psnr_averages_errors_not_decibels():
  a = np.zeros((2, 4, 4, 3), np.uint8)
  b = a.copy()
  b[1] = 255
  assert psnr(a, b) == pytest.approx(10 * np.log10(2))
  b[1] = 10  # Subtracted as uint8 from 0, this would wrap around to 246.
  assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 50))
  assert psnr(a, a) == float('inf')


def test_ssim_is_scikit_images():
  a, b = noise_pair()
  theirs = [
    structural_similarity(
      x,
      y,
      gaussian_weights=True,
      sigma=1.5,
      use_sample_covariance=False,
      data_range=255,
      channel_axis=-1,
    )
    for x, y in zip(a, b, strict=True)
  ]
  assert ssim(a, b) == pytest.approx(np.mean(theirs), abs=1e-12)
  assert ssim(a, a) == pytest.approx(1.0)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f'TTM_SHARED_DATA: no reference values in {SHARED}')
def test_published_implementation_gives_the_same_values():
  clips = np.load(SHARED / 'clips_u8.npz')
  golden = json.loads((SHARED / 'video_metrics.json').read_text())['clips_u8.npz']
  pairs = list(zip(clips['a'], clips['b'], strict=True))
  frames = [[psnr(a[i : i + 1], b[i : i + 1]) for i in range(len(a))] for a, b in pairs]
  np.testing.assert_allclose(frames, golden['psnr_per_frame'], rtol=1e-12)
  assert np.mean(frames) == pytest.approx(31.19994, abs=5e-6)
  assert np.mean([ssim(a, b) for a, b in pairs]) == pytest.approx(0.97489, abs=5e-6)
  assert ssim(pairs[0][0][5:6], pairs[0][1][5:6]) == pytest.approx(golden['ssim_per_frame'][0][5])


@pytest.mark.parametrize(
  'a, b, says',
  [
    (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 16, 17, 3), np.uint8), 'one shape'),
    (np.zeros((2, 16, 16, 3)), np.zeros((2, 16, 16, 3)), 'uint8'),
    (np.zeros((2, 8, 16, 3), np.uint8), np.zeros((2, 8, 16, 3), np.uint8), '11x11'),
  ],
)
def test_videos_that_cannot_be_compared(a, b, says):
  with pytest.raises(InputError, match=says):
    ssim(a, b)


def boxes(path, size=8, frame=(48, 64), obj=1):
  """Return label maps of a box whose upper left corner follows `path` [(y, x)]; sizes may vary."""
  sizes = np.broadcast_to(size, len(path))
  ids = np.zeros((len(path), *frame), np.uint8)
  for t, ((y, x), s) in enumerate(zip(np.round(path).astype(int), sizes, strict=True)):
    ids[t, max(y, 0) : max(y + s, 0), max(x, 0) : max(x + s, 0)] = obj
  return ids


def test_iou_is_the_mean_over_the_frames_that_show_the_object():
  truth = np.zeros((4, 4, 8), np.uint8)
  pred = truth.copy()
  truth[0] = 1  # Frame 0 is ignored, however wrong.
  truth[1, :, :4], pred[1, :, :2] = 1, 1  # 8 of 16.
  truth[2, :1, :4], pred[2, :1, :4] = 1, 1  # All, of a smaller area.
  pred[3] = 1  # The ground truth shows nothing here.
  truth[2, 3], pred[2, 2] = 2, 2
  assert object_iou(pred, truth) == pytest.approx({1: 0.75, 2: 0.0})
  assert mean_iou(pred, truth) == pytest.approx(0.375)
  assert object_iou(pred, truth, skip_first=0)[1] == pytest.approx(0.5)
  assert np.isnan(mean_iou(pred, np.zeros_like(truth)))


def test_centroids_are_y_then_x():
  ids = np.zeros((2, 5, 9), np.uint8)
  ids[0, 1:3, 4:9] = 3
  np.testing.assert_array_equal(centroids(ids, 3), [[1.5, 6.0], [np.nan, np.nan]])


STEPS = {'left': (0, -2), 'right': (0, 2), 'up': (-2, 0), 'down': (2, 0)}


@pytest.mark.parametrize('motion', DIRECTIONAL)
def test_directions(motion):
  start = np.array([20, 28])
  told = {
    m: moves_as_prompted(boxes([start + t * np.array(STEPS[motion]) for t in range(8)]), 1, m)
    for m in (*DIRECTIONAL, 'stay', 'spin', 'grow', 'bounce', 'circle')
  }
  assert told == {m: m == motion for m in told}


def test_a_direction_must_prevail_be_long_enough_and_last():
  diagonal = boxes([(10 + 2 * t, 10 + 3 * t) for t in range(8)])
  assert moves_as_prompted(diagonal, 1, 'right') and not moves_as_prompted(diagonal, 1, 'down')
  # Three pixels are 4.7 % of the width of 64, four are 6.3 %; either is above 5 % of the height.
  assert not moves_as_prompted(boxes([(10, 10)] * 7 + [(10, 13)]), 1, 'right')
  assert moves_as_prompted(boxes([(10, 10)] * 7 + [(10, 14)]), 1, 'right')
  # The width limits a move to the right, the height a move down.
  assert moves_as_prompted(boxes([(10, 10)] * 7 + [(13, 10)]), 1, 'down')
  leaves = boxes([(20, 40 + 4 * t) for t in range(8)])
  assert not leaves[6:].any() and not moves_as_prompted(leaves, 1, 'right')
  late = boxes([(20, 20 + 4 * t) for t in range(8)])
  late[0] = 0
  assert not moves_as_prompted(late, 1, 'right') and not moves_as_prompted(late, 2, 'right')


@pytest.mark.parametrize(
  'sizes, true',
  [
    ([10, 10, 10, 11], {'stay', 'spin'}),  # 1.21 times the area is also growth.
    ([10, 10, 10, 13], {'grow'}),
    ([10, 10, 10, 8], {'shrink'}),
    ([10, 14, 6, 10], {'stay', 'spin'}),
  ],
)
def test_sizes(sizes, true):
  ids = boxes([(20 - s / 2, 30 - s / 2) for s in sizes], size=sizes)
  if sizes[-1] == 11:
    true = true | {'grow'}
  found = {m for m in ('grow', 'shrink', 'stay', 'spin') if moves_as_prompted(ids, 1, m)}
  assert found == true


def arc(degrees, frames=8, radius=9):
  angles = np.deg2rad(np.linspace(0, degrees, frames))
  return [(20 + radius * np.sin(a), 28 + radius * np.cos(a)) for a in angles]


def test_bounce_and_circle():
  hop = [(30 - h, 20 + 2 * t) for t, h in enumerate([0, 4, 7, 8, 7, 4, 0, 4])]
  assert moves_as_prompted(boxes(hop), 1, 'bounce') and not moves_as_prompted(boxes(hop), 1, 'stay')
  tremble = [(30 + t % 2, 20) for t in range(8)]
  assert not moves_as_prompted(boxes(tremble), 1, 'bounce')
  drop = [(10 + 3 * t, 20) for t in range(8)]
  assert not moves_as_prompted(boxes(drop), 1, 'bounce')
  for degrees, told in ((360, True), (-330, True), (200, True), (100, False), (0, False)):
    assert moves_as_prompted(boxes(arc(degrees)), 1, 'circle') is told, degrees
  to_and_fro = [(20 + t % 2, 10 + 4 * min(t, 8 - t)) for t in range(9)]
  assert not moves_as_prompted(boxes(to_and_fro), 1, 'circle')
  assert not moves_as_prompted(boxes(arc(360, radius=1.5)), 1, 'circle')


def test_spin_forgives_a_lopsided_object_its_moving_centroid():
  # The box moves 5 pixels away, 10 % of the height: more than rest, less than its size.
  half_turn = boxes([(20 + y, 28) for y in (0, 2, 4, 5)])
  assert moves_as_prompted(half_turn, 1, 'spin') and not moves_as_prompted(half_turn, 1, 'stay')
  assert not moves_as_prompted(boxes([(20 + y, 28) for y in (0, 3, 5, 7)]), 1, 'spin')


def test_motions_without_an_answer():
  assert moves_as_prompted(boxes([(1, 1)] * 4), 1, 'follow') is None
  with pytest.raises(InputError, match='did you mean "left"'):
    moves_as_prompted(boxes([(1, 1)] * 4), 1, 'lefft')


def painted(ids, colors, strength=8):
  """Render a video of label maps: textured gray background, object colors with a gradient."""
  rng = np.random.default_rng(1)
  _, h, w = ids.shape
  behind = np.linspace(70, 170, w)[None, :, None] + rng.normal(0, strength, (h, w, 1))
  video = np.broadcast_to(behind, (*ids.shape, 3)).copy()
  shade = np.linspace(0.85, 1.1, h)[:, None, None]
  for obj, color in colors.items():
    video = np.where((ids == obj)[..., None], np.array(color) * shade, video)
  return (video + rng.normal(0, strength, video.shape)).clip(0, 255).astype(np.uint8)


def two_objects():
  ids = boxes([(10, 6 + 4 * t) for t in range(8)], size=10)
  ids[boxes([(30 - 2 * t, 44) for t in range(8)], size=12) > 0] = 2
  return ids


def test_objects_are_found_by_their_colors():
  ids = two_objects()
  video = painted(ids, {1: (215, 60, 50), 2: (60, 90, 210)})
  found = find_by_color(video, video[0], ids[0])
  assert found.dtype == np.uint8
  assert min(object_iou(found, ids).values()) > 0.95
  assert adherence(video, video[0], ids) == mean_iou(found, ids)
  # An object that stands still is off its trajectory, the other is on it.
  still = ids.copy()
  still[still == 1] = 0
  still[(ids[:1] == 1).repeat(8, 0) & (still == 0)] = 1
  frozen = painted(still, {1: (215, 60, 50), 2: (60, 90, 210)})
  scores = object_iou(find_by_color(frozen, frozen[0], ids[0]), ids)
  assert scores[1] < 0.4 and scores[2] > 0.95


def test_speckles_go_and_nothing_is_found_without_objects():
  ids = two_objects()
  video = painted(ids, {1: (215, 60, 50), 2: (60, 90, 210)}, strength=0)
  expected = find_by_color(video, video[0], ids[0])
  speckled = video.copy()
  speckled[:, 45, 5], speckled[1:, 2, 2] = (215, 60, 50), (60, 90, 210)
  np.testing.assert_array_equal(find_by_color(speckled, video[0], ids[0]), expected)
  assert not find_by_color(video, video[0], np.zeros_like(ids[0])).any()
  with pytest.raises(InputError, match='must agree'):
    find_by_color(video, video[0, 1:], ids[0])
  with pytest.raises(InputError, match='must be uint8'):
    find_by_color(video / 255, video[0], ids[0])


def test_procedural_scenes_do_as_they_say_and_show_it():
  config = SceneConfig(motions=tuple(m for m in MOTIONS if m != 'follow'))
  ious, told, told_in_pixels = [], [], []
  for index in range(16):
    clip, objects = scene(config, index), layout(config, index).objects
    found = find_by_color(clip.video, clip.video[0], clip.ids[0])
    ious.append(mean_iou(found, clip.ids))
    for obj, thing in enumerate(objects, start=1):
      told.append(moves_as_prompted(clip.ids, obj, thing.motion) is True)
      told_in_pixels.append(moves_as_prompted(found, obj, thing.motion) is True)
  assert np.mean(ious) > 0.93 and min(ious) > 0.8  # On 256 scenes 0.96 and 0.81.
  assert np.mean(told) > 0.95 and np.mean(told_in_pixels) > 0.92
