"""Samples of generated videos for tests of metrics."""

import numpy as np

from ttm_jax.data.schema import Clip
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.options import MetricOptions


def label_maps(frames=6, size=(40, 56), objects=2) -> np.ndarray:
  """Return uint8 [T, H, W]: boxes of 12 x 10 pixels, side by side, that move right and down."""
  ids = np.zeros((frames, *size), np.uint8)
  for t in range(frames):
    for obj in range(objects):
      y, x = 4 + t, 3 + 16 * obj + t
      ids[t, y : y + 10, x : x + 12] = obj + 1
  return ids


def sample(
  seed=0, frames=6, size=(40, 56), objects=2, trajectory=None, video=None, truth=None, ids=None
) -> Sample:
  """Return a sample with random videos, and labels of `label_maps`, unless they are given."""
  rng = np.random.default_rng(seed)
  given = ids if ids is not None else trajectory
  if ids is None:
    ids = label_maps(frames, size, objects) if given is None else given
  shape = (*ids.shape, 3)
  truth = rng.integers(0, 256, shape, np.uint8) if truth is None else truth
  video = rng.integers(0, 256, shape, np.uint8) if video is None else video
  count = int(ids.max())
  names = tuple(f'thing {n}' for n in range(1, count + 1))
  prompts = tuple(f'a thing {n} that moves' for n in range(1, count + 1))
  clip = Clip(f'clip{seed}', truth, ids, 8.0, 'Things move.', 'They move.', names, prompts)
  return Sample(clip, video, trajectory)


class Planted:
  """Networks that are given, in place of `metrics.networks.Networks`."""

  def __init__(self, networks):
    self._networks = networks

  def get(self, network, metric=''):
    """Return the given network."""
    return self._networks[network]

  def label(self, network, metric=''):
    """Return a name for protocols."""
    return 'planted'


def planted(**networks) -> MetricOptions:
  """Return options with these networks, by name."""
  options = MetricOptions()
  options.__dict__['networks'] = Planted(networks)  # The value of the cached property.
  return options
