"""Weights of networks: names, fingerprints, sharing, and errors with a remedy."""

import numpy as np
import pytest
import safetensors.numpy

from ttm_jax.errors import InputError
from ttm_jax.metrics.networks import NETWORKS, fingerprint
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import METRICS, make


def test_every_network_says_where_it_comes_from():
  for name, network in NETWORKS.items():
    assert network.what and network.origin
    if not network.default:
      with pytest.raises(InputError, match=rf'{network.origin[:20]}.* name it as {name}=PATH'):
        MetricOptions().networks.get(name)


def test_fingerprints_follow_the_content(tmp_path):
  file, folder = tmp_path / 'a.safetensors', tmp_path / 'model'
  folder.mkdir()
  found = set()
  for value in range(3):
    safetensors.numpy.save_file({'x': np.full(50_000, value, np.float32)}, file)
    safetensors.numpy.save_file({'x': np.full(50_000, value, np.float32)}, folder / 'w.safetensors')
    found |= {fingerprint(file), fingerprint(folder)}
  assert len(found) == 6
  assert fingerprint(file) == fingerprint(file)
  (folder / 'config.json').write_text('{}')
  assert fingerprint(folder) not in found


def test_protocols_name_the_weights(tmp_path):
  file = tmp_path / 'alex.safetensors'
  safetensors.numpy.save_file({'x': np.zeros(3, np.float32)}, file)
  options = MetricOptions(weights={'lpips': str(file), 'clip_frame': 'someone/clip'})
  lpips, frame, prompt, fvd = make(['lpips', 'clip_frame', 'object_prompt', 'fvd'], options)
  assert f'alex.safetensors {fingerprint(file)}' in lpips.protocol
  assert str(tmp_path) not in lpips.protocol  # A table tells nothing of the machine.
  assert 'someone/clip' in frame.protocol
  assert 'openai/clip-vit-large-patch14' in prompt.protocol
  assert 'no weights' in fvd.protocol


def test_making_metrics_loads_nothing():
  options = MetricOptions()
  make(list(METRICS), options)
  assert not options.networks._loaded


def test_networks_are_shared_unless_a_metric_has_its_own(monkeypatch):
  loaded = []
  network = NETWORKS['clip']
  monkeypatch.setitem(
    NETWORKS,
    'clip',
    type(network)('CLIP', 'x', network.default, lambda source: loaded.append(source) or source),
  )
  options = MetricOptions(device='cpu', batch=3, offline=True, weights={'object_drift': 'a/b'})
  one, two, own = (
    options.networks.get('clip', name) for name in ('clip_frame', 'object_prompt', 'object_drift')
  )
  assert one is two and own.model == 'a/b' and len(loaded) == 2
  assert (one.device, one.dtype, one.batch, one.offline) == ('cpu', 'float32', 3, True)


def test_folders_that_do_not_exist(tmp_path):
  options = MetricOptions(weights={'sam2': str(tmp_path / 'none')})
  with pytest.raises(
    InputError, match=r'none: not found, but the metric mask_iou needs SAM 2; get'
  ):
    options.networks.get('sam2', 'mask_iou')
