"""Normalization layers: RMSNorm, LayerNorm and GroupNorm. Statistics are float32."""

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.nn.modulation import layer_norm, rms_norm

Array = jax.Array


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the last axis, in float32 (eps 1e-5 as in Llama 3)."""

  def __init__(self, d: int, eps: float = 1e-5):
    self.scale = nnx.Param(jnp.ones((d,), jnp.float32))
    self.eps = eps

  def __call__(self, x: Array) -> Array:
    """Normalize x [..., d]."""
    return rms_norm(x, self.scale[...], jnp.zeros(()), self.eps)

  def modulated(self, x: Array, shift: Array, scale: Array) -> Array:
    """Return norm(x) * (1 + scale) + shift; x [B, N, d], shift and scale float32 [B, 1, d]."""
    return rms_norm(x, self.scale[...] * (1 + scale), shift, self.eps)


class LayerNorm(nnx.Module):
  """Normalize the last axis, in float32.

  Attributes:
    scale, bias: float32 [d]; None without `affine`.
    eps: added to the variance.
  """

  def __init__(self, d: int, eps: float = 1e-5, affine: bool = True):
    self.scale = nnx.Param(jnp.ones((d,), jnp.float32)) if affine else None
    self.bias = nnx.Param(jnp.zeros((d,), jnp.float32)) if affine else None
    self.eps = eps

  def __call__(self, x: Array) -> Array:
    """Normalize x [..., d]."""
    if self.scale is None or self.bias is None:
      return layer_norm(x, jnp.ones(()), jnp.zeros(()), self.eps)
    return layer_norm(x, self.scale[...], self.bias[...], self.eps)

  def modulated(self, x: Array, shift: Array, scale: Array) -> Array:
    """Return normalized x * (1 + scale) + shift, for a norm without parameters of its own.

    Args:
      x: [B, N, d].
      shift, scale: float32 [B, 1, d] or [B, N, d].
    """
    return layer_norm(x, 1 + scale, shift, self.eps)


class GroupNorm(nnx.Module):
  """Normalize groups of neighboring channels, in float32.

  Attributes:
    groups: number of groups; it must divide the channels.
    eps: added to the variance.
    clip: take the statistics over all frames of a clip instead of each frame.
  """

  def __init__(self, channels: int, groups: int, *, eps: float, clip: bool = False):
    self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
    self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
    self.groups, self.eps, self.clip = groups, eps, clip

  def __call__(self, x: Array) -> Array:
    """Normalize x [B, T, H, W, C]."""
    count = x.shape[0] if self.clip else x.shape[0] * x.shape[1]
    rows = x.astype(jnp.float32).reshape(count, -1, x.shape[-1])

    def mean(values):
      # Reduce over the pixels first: reductions of a five-dimensional view are slower on CPUs.
      of_groups = values.mean(1).reshape(count, self.groups, -1).mean(-1)
      return jnp.repeat(of_groups, x.shape[-1] // self.groups, -1)[:, None]

    centered = rows - mean(rows)
    factor = jax.lax.rsqrt(mean(jnp.square(centered)) + self.eps) * self.scale[...]
    return (centered * factor + self.bias[...]).reshape(x.shape).astype(x.dtype)
