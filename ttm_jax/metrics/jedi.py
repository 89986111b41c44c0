"""JEDi: the MMD of V-JEPA features (Luo et al. 2024, arXiv 2410.05203).

The authors use V-JEPA ViT-H/16 with the attentive pooler of a Something-Something v2 classifier,
a polynomial kernel of degree 2 without offset, and report 100 times the squared MMD. Their network
is published as a pickle only. Here it is V-JEPA 2 with the pooler of the same classification task,
from transformers. Numbers are therefore comparable with each other, but not with published ones.
"""

import numpy as np

from ttm_jax.metrics.distributions import DistributionMetric
from ttm_jax.metrics.mmd import polynomial_mmd
from ttm_jax.metrics.options import MetricOptions


class Jedi(DistributionMetric):
  """100 times the squared MMD of V-JEPA 2 features."""

  name, title, least = 'jedi', 'JEDi (V-JEPA 2)', 100

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      '100 x squared MMD, unbiased, with the kernel (x . y / D)^2, of pooled features of V-JEPA 2'
      f' ({options.networks.label("vjepa", self.name)}, not the V-JEPA of the JEDi paper); evenly'
      ' spaced frames, resized to squares.'
    )

  def features(self, videos: np.ndarray) -> np.ndarray:
    return self._options.networks.get('vjepa', self.name)(videos)

  def distance(self, generated: np.ndarray, real: np.ndarray) -> float:
    return 100 * polynomial_mmd(generated, real)
