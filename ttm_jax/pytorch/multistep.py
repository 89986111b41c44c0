"""Multistep solvers of order 2, like those of the JAX package."""

import numpy as np
import torch

from ttm_jax.processes.coefficients import corrector, predictor

SOLVERS = UNIPC, DPMPP = 'unipc', 'dpmpp'


class Multistep:
  """A solver that takes its steps in order.

  Attributes:
    signals, spreads: shares of the data and of the noise at each level, float64 [steps + 1].
  """

  def __init__(self, name: str, signals: np.ndarray, spreads: np.ndarray):
    """Begin at the first level.

    Args:
      name: an element of SOLVERS.
      signals, spreads: see the attributes.
    """
    self.signals, self.spreads = signals, spreads
    self._ahead = predictor(signals, spreads)
    self._correct = corrector(signals, spreads) if name == UNIPC else None
    self._number = 0
    self._kept: tuple[torch.Tensor, ...] = ()

  @property
  def level(self) -> tuple[float, float]:
    """The shares of the data and of the noise at the next step."""
    return float(self.signals[self._number]), float(self.spreads[self._number])

  def step(self, data: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the latents at the next level.

    Args:
      data: the predicted data at this level, float32 [B, ...].
      x: the latents at this level, float32 [B, ...].
    """
    number, zeros = self._number, torch.zeros_like(x)
    last, before, here = self._kept or (x, zeros, zeros)
    if self._correct is not None:
      a, b, c, d = map(float, self._correct[number])
      x = a * last + b * before + c * here + d * data
    a, b, c = map(float, self._ahead[number])
    self._number, self._kept = number + 1, (x, here, data)
    return a * x + b * here + c * data
