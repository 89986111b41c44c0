"""The average displacement of synthetic translations, with a flow that is found by search."""

import importlib.util

import numpy as np
import pytest

from tests.helpers.metric_samples import planted, sample
from ttm_jax.errors import InputError
from ttm_jax.metrics.displacement import Displacement
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make


def translation(frames, step, size=(48, 64)):
  """Return a video of noise that moves by `step` (y, x) pixels per frame, and wraps around."""
  first = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  return np.stack([np.roll(first, np.multiply(t, step), (0, 1)) for t in range(frames)])


def by_search(video, most=6):
  """Return the flow (x, y) of the best translation between consecutive frames, up to `most`."""
  flows = []
  for before, after in zip(video[:-1].astype(float), video[1:].astype(float), strict=True):
    steps = [(y, x) for y in range(-most, most + 1) for x in range(-most, most + 1)]
    error = [np.abs(np.roll(before, step, (0, 1)) - after).mean() for step in steps]
    y, x = steps[int(np.argmin(error))]
    flows.append(np.broadcast_to(np.array([x, y], np.float32), (*video.shape[1:3], 2)))
  return np.stack(flows)


@pytest.mark.parametrize('step', [(0, 0), (3, 4), (-5, 0), (2, -1)])
def test_translations(step):
  video = translation(4, step)
  metric = Displacement(planted(raft=by_search))
  one = sample(video=video, ids=np.zeros(video.shape[:3], np.uint8))
  assert metric.measure([one])[0, 0] == pytest.approx(np.hypot(*step), rel=0.02, abs=1e-9)


def test_mean_is_of_lengths_not_of_vectors():
  def flow(video):
    found = np.zeros((len(video) - 1, *video.shape[1:3], 2), np.float32)
    found[:, : video.shape[1] // 2] = [3, 4]
    found[:, video.shape[1] // 2 :] = [-3, -4]
    return found

  assert Displacement(planted(raft=flow)).measure([sample()])[0, 0] == pytest.approx(5)


def test_what_cannot_be_scored():
  with pytest.raises(InputError, match='has 1 frames, but displacement needs at least 2'):
    Displacement(planted(raft=by_search)).measure([sample(frames=1)])
  (metric,) = make(['displacement'], MetricOptions())
  with pytest.raises(InputError, match='displacement needs the weights of RAFT: get torchvision'):
    metric.measure([sample()])


@pytest.mark.skipif(
  importlib.util.find_spec('torchvision') is not None, reason='torchvision is installed'
)
def test_raft_without_torchvision_says_so(tmp_path):
  pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")
  (tmp_path / 'raft.safetensors').write_bytes(b'x')
  options = MetricOptions(weights={'raft': str(tmp_path / 'raft.safetensors')})
  with pytest.raises(InputError, match='RAFT needs torchvision'):
    make(['displacement'], options)[0].measure([sample()])
