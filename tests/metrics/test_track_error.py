"""The error of point tracks, with planted tracks and with a TorchScript stand-in."""

import numpy as np
import pytest

from tests.helpers.metric_samples import label_maps, planted, sample
from ttm_jax.errors import InputError
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make
from ttm_jax.metrics.track_error import POINTS, TrackError, object_points


def test_points_are_spread_over_every_object():
  ids = np.zeros((40, 60), np.uint8)
  ids[10:30, 5:45], ids[2:4, 50:52] = 1, 3
  points = object_points(ids, POINTS)
  x, y = points.astype(int).T
  labels = ids[y, x]
  assert (labels == 1).sum() == POINTS and (labels == 3).sum() == 4 and points.dtype == np.float32
  assert len(np.unique(points, axis=0)) == len(points)
  assert np.ptp(y[labels == 1]) == 19 and np.ptp(x[labels == 1]) > 30
  assert object_points(np.zeros_like(ids), 8).shape == (0, 2)


def test_error_is_of_the_points_visible_in_both():
  one = sample(frames=4, objects=1)

  def track(video, points):
    tracks = np.repeat(points[None].astype(float), 4, axis=0)
    seen = np.ones(tracks.shape[:2], bool)
    if video is one.video:
      tracks[1] += [3, 4]
      tracks[2] += [300, 400]  # Hidden in the generated video.
      tracks[3, : len(points) // 2] += [0, 10]
      seen[2] = False
    return tracks, seen

  value = TrackError(planted(cotracker=track)).measure([one])[0, 0]
  share = (POINTS // 2) / POINTS
  assert value == pytest.approx((5 + 10 * share) / 2)


def test_clips_that_do_not_show_the_motion():
  track = TrackError(planted(cotracker=lambda video, points: 1 / 0))
  ids = label_maps()
  edited = sample(trajectory=np.roll(ids, 3, axis=2))
  edited = sample(ids=ids, trajectory=np.roll(ids, 3, axis=2))
  empty = sample(ids=np.zeros_like(ids))
  assert np.isnan(track.measure([edited, empty])).all()


def test_torchscript_file_is_called_as_cotracker(tmp_path):
  torch = pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")

  class Mover(torch.nn.Module):
    """Points move by the mean level of each frame, and vanish where that is above 100."""

    def forward(self, video: torch.Tensor, queries: torch.Tensor):
      level = video.mean([2, 3, 4])[:, :, None]
      tracks = queries[:, None, :, 1:] + level[..., None]
      return tracks, (level < 100).float().expand(-1, -1, queries.shape[1])

  torch.jit.script(Mover()).save(tmp_path / 'tracker.pt')
  (metric,) = make(
    ['track_error'], MetricOptions(weights={'cotracker': str(tmp_path / 'tracker.pt')})
  )
  ids = label_maps(frames=3)
  truth = np.zeros((*ids.shape, 3), np.uint8)
  video = truth + np.array([0, 6, 120], np.uint8)[:, None, None, None]
  one = sample(ids=ids, truth=truth, video=video)
  assert metric.measure([one])[0, 0] == pytest.approx(6 * 2**0.5, rel=1e-6)
  torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / 'tracker.pt')
  (metric,) = make(
    ['track_error'], MetricOptions(weights={'cotracker': str(tmp_path / 'tracker.pt')})
  )
  with pytest.raises(InputError, match='cotracker cannot be called with a video and queries'):
    metric.measure([one])
