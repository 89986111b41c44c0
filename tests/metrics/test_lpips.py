"""LPIPS with random weights: an independent implementation, batches, and missing weights."""

import numpy as np
import pytest
import safetensors.numpy

from tests.helpers.metric_samples import sample
from ttm_jax.errors import InputError
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make

torch = pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")

# Convolutions of torchvision's AlexNet: index, channels, kernel, stride, padding, pool before.
ALEXNET = (
  (0, 64, 11, 4, 2, False),
  (3, 192, 5, 1, 2, True),
  (6, 384, 3, 1, 1, True),
  (8, 256, 3, 1, 1, False),
  (10, 256, 3, 1, 1, False),
)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  rng, tensors, before = np.random.default_rng(0), {}, 3
  for stage, (index, width, kernel, *_) in enumerate(ALEXNET):
    shape, fan = (width, before, kernel, kernel), before * kernel**2
    tensors[f'features.{index}.weight'] = rng.normal(0, (2 / fan) ** 0.5, shape).astype('f4')
    tensors[f'features.{index}.bias'] = rng.normal(0, 0.1, width).astype('f4')
    tensors[f'lin{stage}.weight'] = rng.random((1, width, 1, 1)).astype('f4')
    before = width
  path = tmp_path_factory.mktemp('lpips') / 'alex.safetensors'
  safetensors.numpy.save_file(tensors, path)
  return path


def lpips_in_torch(path, a, b):
  """Return LPIPS float64 [T] of two videos uint8 [T, H, W, 3], step by step as in the paper."""
  tensors = {k: torch.tensor(v).double() for k, v in safetensors.numpy.load_file(path).items()}
  mean, std = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).double()
  taps = []
  for video in (a, b):
    x = torch.tensor(video).permute(0, 3, 1, 2).double() / 255 * 2 - 1
    x = (x - mean[:, None, None]) / std[:, None, None]
    of_video = []
    for index, _, _, stride, padding, pool in ALEXNET:
      if pool:
        x = torch.nn.functional.max_pool2d(x, 3, 2)
      kernel, bias = tensors[f'features.{index}.weight'], tensors[f'features.{index}.bias']
      x = torch.nn.functional.conv2d(x, kernel, bias, stride, padding).relu()
      of_video.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
    taps.append(of_video)
  distances = [
    torch.nn.functional.conv2d((x - y) ** 2, tensors[f'lin{stage}.weight']).mean((1, 2, 3))
    for stage, (x, y) in enumerate(zip(*taps, strict=True))
  ]
  return sum(distances).numpy()


@pytest.mark.parametrize('size', [(31, 31), (40, 56)])
def test_independent_implementation(weights, size):
  options = MetricOptions(batch=4, weights={'lpips': str(weights)})
  (metric,) = make(['lpips'], options)
  samples = [sample(seed, frames=6, size=size, objects=1) for seed in range(2)]
  found = metric.measure(samples)
  wanted = [lpips_in_torch(weights, one.video, one.clip.video).mean() for one in samples]
  np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-5)
  same = sample(truth=samples[0].video, video=samples[0].video, ids=samples[0].clip.ids)
  assert metric.measure([same])[0, 0] == pytest.approx(0, abs=1e-6)


def test_batches_change_nothing(weights):
  one = sample(frames=5)
  values = [
    make(['lpips'], MetricOptions(batch=batch, weights={'lpips': str(weights)}))[0].measure([one])
    for batch in (1, 3, 8)
  ]
  np.testing.assert_allclose(np.ravel(values), values[0].item(), rtol=1e-6)


def test_what_is_missing_is_named(weights, tmp_path):
  (metric,) = make(['lpips'], MetricOptions())
  with pytest.raises(
    InputError, match='metric lpips needs the weights of LPIPS: get a safetensors'
  ):
    metric.measure([sample()])
  lost = str(tmp_path / 'lost.safetensors')
  (metric,) = make(['lpips'], MetricOptions(weights={'lpips': lost}))
  with pytest.raises(InputError, match=r'lost.safetensors: not found, but the metric lpips needs'):
    metric.measure([sample()])
  (metric,) = make(['lpips'], MetricOptions(weights={'lpips': str(weights)}))
  with pytest.raises(InputError, match='clip clip0: LPIPS needs frames of at least 31x31'):
    metric.measure([sample(size=(30, 40), objects=1)])
