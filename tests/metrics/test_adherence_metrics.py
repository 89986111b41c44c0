"""Trajectory adherence with planted masks of known J, F and IoU, and with a tiny SAM 2."""

import numpy as np
import pytest

from tests.helpers.metric_samples import label_maps, planted, sample
from ttm_jax.errors import InputError
from ttm_jax.metrics.adherence import adherence
from ttm_jax.metrics.adherence_metrics import TrackedAdherence
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import METRICS, make
from ttm_jax.metrics.video_masks import VideoMasks

TRACKED = ('adherence_sam2', 'boundary_sam2', 'mask_iou', 'box_iou')


class PlantedTracker:
  """A tracker that finds given label maps, instead of those of a video."""

  def __init__(self, ids):
    self.ids, self.prompts = ids, []

  def from_masks(self, video, masks):
    self.prompts.append(masks)
    # The objects in the order of the masks that they are prompted with.
    objects = [int(np.unique(self.ids[0][mask])[0]) for mask in masks]
    return np.stack([np.where(self.ids == obj, 4.0, -4.0) for obj in objects], axis=1)


def scores(found, target, names=TRACKED):
  """Return the metrics by name if SAM 2 finds `found` where the trajectory is `target`."""
  options = planted(sam2=VideoMasks(PlantedTracker(found)))
  one = sample(trajectory=target)
  return {name: METRICS[name](options).measure([one])[0, 0] for name in names}


def boxes(frames=5, size=(60, 80), shift=0, objects=2):
  """Return label maps of squares of 16 x 16 pixels, which are shifted after frame 0."""
  ids = np.zeros((frames, *size), np.uint8)
  for t in range(frames):
    for obj in range(objects):
      x = 8 + 32 * obj + (shift if t else 0)
      ids[t, 20:36, x : x + 16] = obj + 1
  return ids


def test_perfect_masks():
  target = label_maps(objects=3, size=(40, 70))
  assert scores(target, target) == dict.fromkeys(TRACKED, 1.0)


@pytest.mark.parametrize('k', [1, 2, 5])
def test_masks_shifted_by_k_pixels(k):
  found = scores(boxes(shift=k), boxes())
  iou = (16 - k) / (16 + k)
  assert found['adherence_sam2'] == found['mask_iou'] == pytest.approx(iou)
  assert found['box_iou'] == pytest.approx(iou)
  # The disk of 0.8 % of the diagonal of 100 pixels covers one pixel.
  assert found['boundary_sam2'] == 1 if k == 1 else found['boundary_sam2'] < 1


@pytest.mark.parametrize('lost', [1, 3])
def test_object_lost_for_n_frames(lost):
  target, found = boxes(frames=6), boxes(frames=6)
  found[2 : 2 + lost][found[2 : 2 + lost] == 2] = 0
  wanted = (1 + (5 - lost) / 5) / 2  # Of two objects, over five frames after the first.
  assert scores(found, target) == pytest.approx(dict.fromkeys(TRACKED, wanted))


def test_swapped_objects():
  target = boxes()
  found = target.copy()
  found[1:] = np.array([0, 2, 1], np.uint8)[target[1:]]
  assert scores(found, target) == dict.fromkeys(TRACKED, 0.0)


def test_object_that_leaves_and_one_that_enters():
  target = boxes(frames=5, objects=2)
  target[3:][target[3:] == 1] = 0  # Leaves the frame.
  target[0][target[0] == 2] = 0  # Enters later, so that SAM 2 cannot follow it.
  followed = np.where(target == 1, target, 0).astype(np.uint8)
  assert scores(followed, target) == dict.fromkeys(TRACKED, 1.0)
  # It stays where it should leave: DAVIS counts these two of four frames as wrong.
  stays = np.broadcast_to(followed[0], followed.shape)
  found = scores(stays, target)
  assert found['adherence_sam2'] == found['boundary_sam2'] == 0.5
  assert found['mask_iou'] == found['box_iou'] == 1
  nothing = np.zeros_like(target)
  assert all(np.isnan(value) for value in scores(nothing, nothing).values())


def test_each_video_is_tracked_once():
  target = boxes()
  tracker = PlantedTracker(target)
  options = planted(sam2=VideoMasks(tracker))
  samples = [sample(seed, trajectory=target) for seed in range(2)]
  for name in TRACKED:
    METRICS[name](options).measure(samples)
  assert len(tracker.prompts) == 2
  np.testing.assert_array_equal(tracker.prompts[0], [target[0] == 1, target[0] == 2])
  other = sample(0, trajectory=np.flip(target, 2).copy())  # The same video from other masks.
  tracker.ids = other.trajectory
  METRICS['mask_iou'](options).measure([other])
  assert len(tracker.prompts) == 3


def test_adherence_by_color_is_that_of_evaluation():
  ids = label_maps(frames=4)
  video = np.zeros((*ids.shape, 3), np.uint8)
  for label, color in enumerate([(60, 60, 60), (220, 30, 30), (30, 30, 220)]):
    video[ids == label] = color
  moved = np.roll(video, 2, axis=2)
  moved[0] = video[0]
  (metric,) = make(['adherence_color'], MetricOptions())
  same, other = (
    metric.measure([sample(ids=ids, truth=video, video=v)])[0, 0] for v in (video, moved)
  )
  assert same == 1 and other == adherence(moved, video[0], ids) < 1


def test_one_frame_cannot_be_scored():
  for name in ('adherence_color', *TRACKED):
    with pytest.raises(InputError, match=f'has 1 frames, but {name} needs at least 2'):
      METRICS[name](planted(sam2=None)).measure([sample(frames=1)])
  with pytest.raises(NotImplementedError):
    TrackedAdherence.agreement(None, None, None, None)


# A tiny SAM 2 of random weights.


def test_masks_reach_sam2_and_come_back(tiny_model, monkeypatch):
  torch = pytest.importorskip('torch', reason="pip install 'ttm_jax[data]'")
  transformers = pytest.importorskip('transformers', reason="pip install 'ttm_jax[data]'")
  target = np.zeros((3, 40, 60), np.uint8)
  for t in range(3):
    target[t, 8:24, 4 + 8 * t : 24 + 8 * t], target[t, 16:36, 44:58] = 1, 5
  seen, forward = [], transformers.Sam2VideoModel.forward

  def watched(self, inference_session, frame_idx=None, **others):
    if frame_idx == 0:
      seen.append([m[0] for m in inference_session.mask_inputs_per_obj.values()])
    output = forward(self, inference_session, frame_idx=frame_idx, **others)
    if frame_idx:  # Frame 0 is the model's own.
      size = output.pred_masks.shape[-2:]
      for i, obj in enumerate((1, 5)):
        mask = torch.tensor(target[frame_idx] == obj)[None, None].float()
        output.pred_masks[i] = torch.nn.functional.interpolate(mask, size)[0] * 16 - 8
    return output

  monkeypatch.setattr(transformers.Sam2VideoModel, 'forward', watched)
  options = MetricOptions(device='cpu', weights={'sam2': str(tiny_model('sam2_video'))})
  found = options.networks.get('sam2')(sample(trajectory=target).video, target[0])
  # The prompts are the masks, resized to the model's square.
  for given, obj in zip(seen[0], (1, 5), strict=True):
    assert given.shape[-2:] == (64, 64) and set(np.unique(given)) == {0, 1}
    small = torch.nn.functional.interpolate(given, (40, 60), mode='area')[0, 0] > 0.5
    assert np.mean(small.numpy() == (target[0] == obj)) > 0.98
  np.testing.assert_array_equal(found[0], target[0])
  for t in (1, 2):  # The model's masks have 16 x 16 pixels here.
    assert np.mean(found[t] == target[t]) > 0.9 and set(np.unique(found[t])) == {0, 1, 5}


def test_sam2_takes_masks_as_they_are(tiny_model):
  """The tracker's own masks of frame 0 are those it was given."""
  pytest.importorskip('torch', reason="pip install 'ttm_jax[data]'")
  pytest.importorskip('transformers', reason="pip install 'ttm_jax[data]'")
  from tests.helpers.model_inputs import video, weights
  from ttm_jax.pytorch.annotation.sam2 import TransformersTracker

  masks = np.zeros((2, 64, 64), bool)
  masks[0, 8:40, 8:32], masks[1, 20:60, 36:60] = True, True
  logits = TransformersTracker(weights(tiny_model('sam2_video'))).from_masks(
    video(3, (64, 64)), masks
  )
  assert logits.shape == (3, 2, 64, 64) and logits.dtype == np.float32
  for found, mask in zip(logits[0] > 0, masks, strict=True):
    assert (found & mask).sum() / (found | mask).sum() > 0.85


def test_the_package_sam2_gets_the_masks(monkeypatch):
  """Its predictor is replaced, since the package may not be installed."""
  torch = pytest.importorskip('torch', reason="pip install 'ttm_jax[data]'")
  from tests.helpers.model_inputs import video, weights
  from ttm_jax.pytorch.annotation import sam2_package

  class Predictor:
    device = torch.device('cpu')

    def init_state(self, folder):
      return {}

    def add_new_mask(self, state, frame_idx, obj_id, mask):
      assert frame_idx == 0
      state[obj_id] = torch.tensor(mask)

    def propagate_in_video(self, state):
      masks = torch.stack([state[number] for number in sorted(state)])
      for t in range(3):
        yield t, sorted(state), torch.where(masks, 3.0, -3.0)[:, None]

  monkeypatch.setattr(sam2_package, '_load', lambda weights: Predictor())
  masks = np.random.default_rng(0).random((2, 10, 12)) > 0.5
  logits = sam2_package.PackageTracker(weights('any')).from_masks(video(3, (10, 12)), masks)
  np.testing.assert_array_equal(logits > 0, np.stack([masks] * 3))
