"""Fréchet video distance (FVD): Unterthiner et al. 2019, with the I3D network of StyleGAN-V.

The network is a TorchScript file that resizes frames to 224 x 224 and scales pixels to -1..1
itself. Its features are the 400 logits of Kinetics classes. They equal those of the original
TensorFlow network to 3e-4 (universome/fvd-comparison).
"""

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.metrics.distributions import DistributionMetric
from ttm_jax.metrics.frechet import frechet_distance
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.torch_calls import channels_first, device_of, exactly


class Fvd(DistributionMetric):
  """FVD over all frames of the clips."""

  name, title = 'fvd', 'FVD'
  least = 400  # Below the number of features, the covariances are singular.
  least_frames = 10  # Below, the network's last average over time has no input.

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'FVD of I3D logits ({options.networks.label("i3d", self.name)}; rescale=True, resize=True,'
      ' return_features=True) over all frames, with unbiased covariances; it depends on the number'
      ' of clips, and on their frames, frame rate and resolution.'
    )

  def features(self, videos: np.ndarray) -> np.ndarray:
    network = self._options.networks.get('i3d', self.name)
    with exactly():
      # [B, T, 3, H, W] -> [B, 3, T, H, W], pixels in 0..255.
      pixels = channels_first(videos).transpose(1, 2).to(device_of(network)).float()
      try:
        found = network(pixels, rescale=True, resize=True, return_features=True)
      except (RuntimeError, TypeError) as error:
        raise InputError(
          'the TorchScript file of i3d cannot be called with rescale, resize and return_features;'
          ' give i3d_torchscript.pt of StyleGAN-V'
        ) from error
    return found.flatten(1).double().cpu().numpy()

  def distance(self, generated: np.ndarray, real: np.ndarray) -> float:
    return frechet_distance(generated, real)
