"""JEDi with a tiny V-JEPA 2 of random weights."""

import numpy as np
import pytest

pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

import torch
import transformers

from tests.helpers.metric_samples import sample
from ttm_jax.metrics.mmd import polynomial_mmd
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make


def area_resized(frame, side):
  """Return a frame float [H, W, 3] resized by bilinear interpolation with antialiasing.

  Each output pixel is the mean of input pixels, weighted by a triangle as wide as two output
  pixels.
  """
  for axis in (0, 1):
    size = frame.shape[axis]
    scale = size / side
    centers = (np.arange(side) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centers[:, None]) / max(scale, 1)
    weights = np.maximum(0, 1 - distance)
    weights /= weights.sum(1, keepdims=True)
    frame = np.moveaxis(np.tensordot(weights, frame, (1, axis)), 0, axis)
  return frame


def test_frames_are_spaced_resized_and_normalized(tiny_model):
  options = MetricOptions(device='cpu', weights={'vjepa': str(tiny_model('vjepa'))})
  video = np.random.default_rng(0).integers(0, 256, (7, 40, 56, 3), np.uint8)
  found = options.networks.get('vjepa').prepared(video[None])
  assert found.shape == (1, 4, 3, 32, 32)
  for frame, number in zip(found[0], (0, 2, 4, 6), strict=True):
    wanted = area_resized(video[number] / 255, 32)
    wanted = (wanted - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(frame.permute(1, 2, 0), wanted, atol=2e-5)


def test_rows_are_what_the_classifier_pools(tiny_model):
  path = str(tiny_model('vjepa'))
  (metric,) = make(['jedi'], MetricOptions(device='cpu', weights={'vjepa': path}))
  samples = [sample(seed, frames=6, objects=1) for seed in range(3)]
  rows = metric.measure(samples)
  model = transformers.VJEPA2ForVideoClassification.from_pretrained(path).eval()
  seen = []
  model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
  network = metric._options.networks.get('vjepa')
  with torch.inference_mode():
    for one in samples:
      model(network.prepared(np.stack([one.video, one.clip.video])))
  np.testing.assert_allclose(rows, torch.stack(seen).flatten(1), rtol=1e-4, atol=1e-5)
  half = rows.shape[1] // 2
  wanted = 100 * polynomial_mmd(rows[:, :half], rows[:, half:])
  assert metric.summarize(rows) == pytest.approx(wanted, rel=1e-12)
  assert 'not the V-JEPA of the JEDi paper' in metric.protocol
