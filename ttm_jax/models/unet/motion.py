"""The motion module of AnimateDiff: attention over time, independently at each pixel.

The layout is that of AnimateDiff's modules since v1 (Guo et al. 2024, arXiv 2307.04725). The last
layer is initialized to zero, so a new module does not change the frames.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.nn.attention import Attention
from ttm_jax.nn.feed_forward import GEGLU
from ttm_jax.nn.linear import Linear, uniform_init, zeros_init
from ttm_jax.nn.norms import GroupNorm, LayerNorm

Array = jax.Array


class MotionModule(nnx.Module):
  """Two self-attentions over the frames, with position embeddings, and a feed-forward network.

  Args:
    d: width.
    heads: number of heads.
    groups: groups of the group norm.
    clip_norm: whether the first norm takes its statistics over the clip (diffusers) or over each
      frame (the original code).
    rngs: source of the initial parameters.
    dtype: compute dtype.
  """

  def __init__(self, d: int, heads: int, groups: int, clip_norm: bool, *, rngs: nnx.Rngs, dtype):
    def attention() -> Attention:
      return Attention(
        d, heads, rngs=rngs, dtype=dtype, qk_norm=None, out_bias=True, init=uniform_init
      )

    self.norm = GroupNorm(d, groups, eps=1e-6, clip=clip_norm)
    self.proj_in = Linear(d, d, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    self.norm1, self.attn1 = LayerNorm(d), attention()
    self.norm2, self.attn2 = LayerNorm(d), attention()
    self.norm3, self.ffn = LayerNorm(d), GEGLU(d, rngs=rngs, dtype=dtype)
    self.proj_out = Linear(d, d, rngs=rngs, dtype=dtype, bias=True, init=zeros_init)

  def __call__(self, x: Array) -> Array:
    """Map x [B, T, H, W, d] to [B, T, H, W, d]."""
    b, t, height, width, d = x.shape
    h = self.proj_in(self.norm(x)).transpose(0, 2, 3, 1, 4).reshape(-1, t, d)
    where = jnp.asarray(positions(t, d), h.dtype)
    h = h + self.attn1(self.norm1(h) + where)
    h = h + self.attn2(self.norm2(h) + where)
    h = h + self.ffn(self.norm3(h))
    h = self.proj_out(h).reshape(b, height, width, t, d)
    return x + h.transpose(0, 3, 1, 2, 4)


def positions(frames: int, d: int) -> np.ndarray:
  """Return the position table of the frames: float32 [frames, d].

  Even channels are sines, odd channels are cosines, of the same angle. Channels 2 i and 2 i + 1
  advance by 10000^(-2 i / d) per frame (Vaswani et al. 2017, section 3.5).
  """
  angles = np.arange(frames)[:, None] * np.exp(np.arange(0, d, 2) * (-math.log(10_000) / d))
  return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(frames, d).astype(np.float32)
