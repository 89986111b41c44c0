"""FVD with a stand-in network, and the published value if the real one is at hand."""

import os
import pathlib

import numpy as np
import pytest

from tests.helpers.metric_samples import sample
from ttm_jax.errors import InputError
from ttm_jax.metrics.frechet import frechet_distance
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make

torch = pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")

I3D = os.environ.get('TTM_I3D', '')


class StandIn(torch.nn.Module):
  """Features that depend on every part of the input, with the signature of the real file."""

  def __init__(self):
    super().__init__()
    torch.manual_seed(0)
    self.weight = torch.nn.Parameter(torch.randn(3 * 12, 7))

  def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool):
    if not (rescale and resize and return_features):
      raise ValueError('called otherwise')
    return (x / 255 * 2 - 1).mean([3, 4]).flatten(1) @ self.weight


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory):
  path = tmp_path_factory.mktemp('i3d') / 'i3d.pt'
  torch.jit.script(StandIn()).save(path)
  return str(path)


def features(video):
  """Return the stand-in's features of a video uint8 [T, H, W, 3], by NumPy."""
  weight = StandIn().weight.detach().numpy()
  return (video / 255 * 2 - 1).mean((1, 2)).T.ravel() @ weight


def test_rows_are_features_of_both_videos(stand_in):
  (metric,) = make(['fvd'], MetricOptions(weights={'i3d': stand_in}))
  samples = [sample(seed, frames=12, size=(20, 24), objects=1) for seed in range(12)]
  rows = metric.measure(samples)
  assert rows.shape == (12, 14) and rows.dtype == np.float64
  for row, one in zip(rows, samples, strict=True):
    np.testing.assert_allclose(row[:7], features(one.video), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(row[7:], features(one.clip.video), rtol=1e-4, atol=1e-5)
  assert metric.summarize(rows) == frechet_distance(rows[:, :7], rows[:, 7:])
  assert metric.summarize(rows[::-1]) == pytest.approx(metric.summarize(rows))
  assert np.isnan(metric.summarize(rows[:1])) and metric.measure([]).shape == (0, 0)


def test_weights_by_name_of_the_metric(stand_in):
  other = MetricOptions(weights={'fvd': stand_in, 'i3d': 'nothing'})
  (metric,) = make(['fvd'], other)
  assert metric.measure([sample(frames=12, objects=1)]).shape == (1, 14)
  assert 'i3d.pt' in metric.protocol and 'unbiased' in metric.protocol


def test_what_cannot_be_scored(stand_in, tmp_path):
  (metric,) = make(['fvd'], MetricOptions())
  with pytest.raises(InputError, match=r'fvd needs the weights of I3D: get i3d_torchscript.pt'):
    metric.measure([sample(frames=12, objects=1)])
  (metric,) = make(['fvd'], MetricOptions(weights={'i3d': stand_in}))
  with pytest.raises(InputError, match='clip clip0: has 9 frames, but fvd needs at least 10'):
    metric.measure([sample(frames=9, objects=1)])
  pickle = tmp_path / 'pickle.pt'
  torch.save({'weight': torch.zeros(2)}, pickle)
  (metric,) = make(['fvd'], MetricOptions(weights={'i3d': str(pickle)}))
  with pytest.raises(InputError, match='is not a TorchScript file'):
    metric.measure([sample(frames=12, objects=1)])
  torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / 'other.pt')
  (metric,) = make(['fvd'], MetricOptions(weights={'i3d': str(tmp_path / 'other.pt')}))
  with pytest.raises(InputError, match='cannot be called with rescale'):
    metric.measure([sample(frames=12, objects=1)])


@pytest.mark.skipif(not I3D, reason='TTM_I3D does not name the file i3d_torchscript.pt')
def test_published_value_of_zeros_and_ones():
  """Of JunyaoHu/common_metrics_on_video_quality: 8 videos of 30 frames of 64 x 64 pixels."""
  assert pathlib.Path(I3D).is_file(), I3D
  (metric,) = make(['fvd'], MetricOptions(weights={'i3d': I3D}))
  black = np.zeros((30, 64, 64, 3), np.uint8)
  one = sample(video=black, truth=black + 255, ids=np.zeros(black.shape[:3], np.uint8))
  assert metric.summarize(metric.measure([one] * 8)) == pytest.approx(151.25648496845326, abs=1e-3)
