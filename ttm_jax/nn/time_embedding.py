"""The embedding of the diffusion time, and of guidance scales that a network takes as inputs."""

import math
import re

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.guidance_inputs import RANGES
from ttm_jax.nn.linear import Linear, zeros_init

Array = jax.Array

# Frequencies of the sinusoids of a guidance scale: periods of 3 to 125.
SCALE_WAVES, FASTEST, SLOWEST = 16, 2.0, 0.05

_OF_SCALES = re.compile(r'(^|\.)time\.scales\.')


def embeds_scales(name: str) -> bool:
  """Return whether a parameter, by its dotted path, belongs to the embedding of guidance scales."""
  return bool(_OF_SCALES.search(name))


class TimeEmbedding(nnx.Module):
  """Sinusoid -> Linear -> SiLU -> Linear, in float32.

  The sinusoid is [cos, sin] of t * 10000^(-2 i / width), with t in 0..1000 (as in Movie Gen, Wan
  and Stable Diffusion). With `scales`, the embedding of the guidance scales is added.
  """

  def __init__(self, d: int, *, rngs: nnx.Rngs, width: int = 256, scales: bool = False):
    self.hidden = Linear(width, d, rngs=rngs, bias=True)
    self.out = Linear(d, d, rngs=rngs, bias=True)
    self.scales = ScaleEmbedding(d, rngs=rngs) if scales else None
    self.width = width

  def __call__(self, t: Array, scales: Array | None = None) -> Array:
    """Embed times.

    Args:
      t: float32 [B, ...].
      scales: guidance scales, float32 [B, 2] (see `guidance_inputs`); None if the network takes
        none.

    Returns:
      float32 [B, ..., d].

    Raises:
      ValueError: if scales are given to a network that takes none, or are missing.
    """
    if (scales is None) != (self.scales is None):
      takes = 'takes no' if self.scales is None else 'needs'
      raise ValueError(f'the network {takes} guidance scales in its condition')
    half = self.width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t[..., None] * frequencies
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    time = self.out(jax.nn.silu(self.hidden(waves)))
    if self.scales is None or scales is None:
      return time
    return time + self.scales(scales).reshape(len(t), *[1] * (t.ndim - 1), -1)


class ScaleEmbedding(nnx.Module):
  """Sinusoids of the guidance scales -> Linear -> SiLU -> Linear, in float32; zero at first.

  So a student starts as its teacher, whatever the scales.
  """

  def __init__(self, d: int, *, rngs: nnx.Rngs):
    self.hidden = Linear(2 * SCALE_WAVES * len(RANGES), d, rngs=rngs, bias=True)
    self.out = Linear(d, d, rngs=rngs, bias=True, init=zeros_init)

  def __call__(self, scales: Array) -> Array:
    """Map scales, float32 [B, 2], to float32 [B, d]."""
    frequencies = jnp.geomspace(FASTEST, SLOWEST, SCALE_WAVES, dtype=jnp.float32)
    angles = scales[..., None] * frequencies
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return self.out(jax.nn.silu(self.hidden(waves.reshape(len(scales), -1))))
