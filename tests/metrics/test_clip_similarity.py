"""Metrics by CLIP: crops, planted embeddings with known similarities, and a tiny real CLIP."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.metric_samples import label_maps, planted, sample
from ttm_jax.errors import InputError
from ttm_jax.metrics.color_drift import ColorDrift
from ttm_jax.metrics.crops import BLANK, object_crop
from ttm_jax.metrics.frames import evenly
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import METRICS, make

# Crops.


def test_crop_is_the_square_around_the_object():
  rng = np.random.default_rng(0)
  frame = rng.integers(0, 256, (20, 30, 3), np.uint8)
  mask = np.zeros((20, 30), bool)
  mask[5:9, 10:20] = True  # 4 x 10: three rows more above and below.
  np.testing.assert_array_equal(object_crop(frame, mask), frame[2:12, 10:20])
  blank = object_crop(frame, mask, blank=True)
  np.testing.assert_array_equal(blank[3:7], frame[5:9, 10:20])
  assert (blank[:3] == BLANK).all() and (blank[7:] == BLANK).all()
  mask[6, 12] = False
  blank = object_crop(frame, mask, blank=True)
  assert (blank[4, 2] == BLANK).all() and blank.shape == (10, 10, 3)


@pytest.mark.parametrize('top, rows', [(0, slice(0, 7)), (16, slice(13, 20))])
def test_crop_at_the_edge_is_filled_up(top, rows):
  frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  mask = np.zeros((20, 30), bool)
  mask[top : top + 4, 10:20] = True
  crop = object_crop(frame, mask)
  inside = slice(3, 10) if top == 0 else slice(0, 7)
  np.testing.assert_array_equal(crop[inside], frame[rows, 10:20])
  outside = np.delete(crop, inside, axis=0)
  assert crop.shape == (10, 10, 3) and (outside == BLANK).all()
  wide = np.ones((20, 30), bool)
  np.testing.assert_array_equal(object_crop(frame, wide)[5:25], frame)


def test_frames_are_spaced_evenly():
  assert evenly(9, 3).tolist() == [0, 4, 8] and evenly(3, 5).tolist() == [0, 0, 1, 2, 2]
  assert evenly(1, 4).tolist() == [0] * 4 and evenly(100, 8)[-1] == 99


# Planted embeddings: the angle of a color, so that similarities are known.


def by_angle(pictures):
  """Return [cos, sin] of an angle in degrees: the mean red level of pixels that are not blank."""
  angles = []
  for picture in pictures:
    seen = (picture != BLANK).any(-1) if (picture == BLANK).all(-1).any() else ...
    angles.append(np.deg2rad(picture[seen][..., 0].mean()))
  return np.stack([np.cos(angles), np.sin(angles)], axis=1)


by_angle.dim = 2


class Angles:
  images = staticmethod(by_angle)

  def __init__(self):
    self.asked = []

  def texts(self, texts):
    self.asked += texts
    return np.tile([1.0, 0.0], (len(texts), 1))


def painted(ids, angle):
  """Return a video whose red is `angle(t, label)` in degrees."""
  video = np.full((*ids.shape, 3), 7, np.uint8)
  for t in range(len(ids)):
    for label in np.unique(ids):
      video[t, ids[t] == label, 0] = angle(t, label)
  return video


def test_consistency_is_the_mean_over_ordered_pairs():
  ids = np.zeros((3, 20, 30), np.uint8)
  one = sample(ids=ids, video=painted(ids, lambda t, label: (10, 40, 100)[t]))
  metric = make_with('clip_frame', Angles())
  wanted = np.cos(np.deg2rad([30, 60, 90])).mean()
  assert metric.measure([one])[0, 0] == pytest.approx(wanted, abs=1e-6)
  with pytest.raises(InputError, match='has 1 frames, but clip_frame needs at least 2'):
    metric.measure([sample(ids=ids[:1])])


def make_with(name, clip, **others):
  return METRICS[name](planted(clip=clip, **others))


def test_objects_are_compared_with_their_own_prompts():
  ids = label_maps(frames=6)
  ids[4:][ids[4:] == 2] = 0  # Object 2 leaves.
  boxed = ids.copy()
  one = sample(ids=ids, video=painted(boxed, lambda t, label: (0, 30, 60)[label]))
  clip = Angles()
  value = make_with('object_prompt', clip).measure([one])[0, 0]
  crops = [
    [object_crop(one.video[t], ids[t] == obj) for t in range(6) if (ids[t] == obj).any()]
    for obj in (1, 2)
  ]
  assert [len(c) for c in crops] == [6, 4] and clip.asked == list(one.clip.prompts)
  assert value == pytest.approx(np.mean([by_angle(c)[:, 0].mean() for c in crops]))
  empty = sample(ids=np.zeros_like(ids))
  assert np.isnan(make_with('object_prompt', clip).measure([empty])[0, 0])


def test_target_trajectory_decides_where_to_look():
  ids = label_maps(frames=4, objects=1)
  moved = np.roll(ids, 20, axis=2)
  video = painted(moved, lambda t, label: 50 * label)
  drift = make_with('object_drift', Angles())
  there = sample(trajectory=moved, video=video)
  assert drift.measure([there])[0, 0] == pytest.approx(0, abs=1e-6)
  half = painted(moved, lambda t, label: 50 * label + 60 * (t > 1) * label)
  assert drift.measure([sample(trajectory=moved, video=half)])[0, 0] == pytest.approx(
    np.mean(1 - np.cos(np.deg2rad([0, 60, 60]))), abs=1e-6
  )
  # The background changes, and the object does not.
  behind = painted(moved, lambda t, label: 50 if label else 9 * t)
  assert drift.measure([sample(trajectory=moved, video=behind)])[0, 0] == pytest.approx(0, abs=1e-6)


def test_drift_needs_the_object_in_frame_0():
  ids = label_maps(frames=4)
  ids[0][ids[0] == 2] = 0
  ids[1:][ids[1:] == 1] = 0
  one = sample(ids=ids)
  assert np.isnan(make_with('object_drift', Angles()).measure([one])[0, 0])
  assert np.isnan(ColorDrift(MetricOptions()).measure([one])[0, 0])


def test_color_drift_is_the_distance_of_mean_colors():
  ids = label_maps(frames=3)
  video = np.zeros((*ids.shape, 3), np.uint8)
  video[:] = 100
  video[1:][ids[1:] == 1] += np.array([3, 4, 0], np.uint8)
  video[2][ids[2] == 2] += np.array([0, 0, 8], np.uint8)
  video[:, 30:] = np.arange(3, dtype=np.uint8)[:, None, None, None]  # Background does not count.
  found = ColorDrift(MetricOptions()).measure([sample(ids=ids, video=video)])
  assert found[0, 0] == pytest.approx(np.mean([5, np.mean([0, 8])]))


def test_aesthetic_score_is_linear():
  ids = np.zeros((3, 20, 30), np.uint8)
  one = sample(ids=ids, video=painted(ids, lambda t, label: 60))
  metric = make_with('aesthetic', Angles(), aesthetic=(np.array([2.0, 0.0]), 5.0))
  assert metric.measure([one])[0, 0] == pytest.approx(6)
  wide = make_with('aesthetic', Angles(), aesthetic=(np.zeros(3), 0.0))
  with pytest.raises(InputError, match='embeddings of width 3, but CLIP has 2'):
    wide.measure([one])


# A tiny CLIP of random weights.


def test_embeddings_are_those_of_the_library(tiny_model):
  transformers = pytest.importorskip('transformers', reason="pip install 'ttm_jax[data]'")
  torch = pytest.importorskip('torch', reason="pip install 'ttm_jax[data]'")
  path = str(tiny_model('clip'))
  clip = MetricOptions(device='cpu', batch=2, weights={'clip': path}).networks.get('clip')
  frames = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
  model = transformers.CLIPModel.from_pretrained(path).eval()
  # The definition: the shorter side becomes 16 by bicubic resizing, and the center is cut out.
  pixels = []
  for frame in frames:
    small = np.asarray(Image.fromarray(frame).resize((19, 16), Image.Resampling.BICUBIC))[:, 1:17]
    pixels.append((small / 255 - 0.5) / 0.25)
  inputs = torch.tensor(np.array(pixels).transpose(0, 3, 1, 2), dtype=torch.float32)
  tokens = transformers.AutoTokenizer.from_pretrained(path)(['a dog'], return_tensors='pt')
  with torch.inference_mode():
    image = model.visual_projection(model.vision_model(inputs).pooler_output).numpy()
    text = model.text_projection(model.text_model(**tokens).pooler_output).numpy()
  found = clip.images(list(frames))
  np.testing.assert_allclose(found, image / np.linalg.norm(image, axis=1)[:, None], atol=1e-5)
  texts = clip.texts(['a dog', 'a much longer text ' * 20, 'a dog'])  # Padded and truncated.
  np.testing.assert_allclose(texts[0], text[0] / np.linalg.norm(text[0]), atol=1e-5)
  np.testing.assert_allclose(texts[2], texts[0], atol=1e-6)
  assert clip.images([]).shape == (0, 12)


def test_clip_frame_resizes_twice(tiny_model):
  pytest.importorskip('transformers', reason="pip install 'ttm_jax[data]'")
  options = MetricOptions(device='cpu', weights={'clip': str(tiny_model('clip'))})
  metric, prompt, drift = make(['clip_frame', 'object_prompt', 'object_drift'], options)
  one = sample(frames=4)
  frames = [
    np.asarray(Image.fromarray(f).resize((480, 480), Image.Resampling.BICUBIC)) for f in one.video
  ]
  embedded = options.networks.get('clip').images(frames)
  pairs = [embedded[i] @ embedded[j] for i in range(4) for j in range(4) if i != j]
  assert metric.measure([one])[0, 0] == pytest.approx(np.mean(pairs), abs=1e-6)
  assert -1 <= prompt.measure([one])[0, 0] <= 1 and 0 <= drift.measure([one])[0, 0] <= 2
  assert len(options.networks._loaded) == 1  # All three share one network.
