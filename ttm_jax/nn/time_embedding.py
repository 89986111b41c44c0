"""The embedding of the diffusion time."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.nn.linear import Linear

Array = jax.Array


class TimeEmbedding(nnx.Module):
  """Sinusoid -> Linear -> SiLU -> Linear, in float32.

  The sinusoid is [cos, sin] of t * 10000^(-2 i / width), with t in 0..1000 (as in Movie Gen, Wan
  and Stable Diffusion).
  """

  def __init__(self, d: int, *, rngs: nnx.Rngs, width: int = 256):
    self.hidden = Linear(width, d, rngs=rngs, bias=True)
    self.out = Linear(d, d, rngs=rngs, bias=True)
    self.width = width

  def __call__(self, t: Array) -> Array:
    """Map t, float32 [...], to float32 [..., d]."""
    half = self.width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t[..., None] * frequencies
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return self.out(jax.nn.silu(self.hidden(waves)))
