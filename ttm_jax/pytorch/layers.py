"""The small parts that backbones are made of.

Matrix products run in the dtype of their weights, to which inputs are cast; norms, modulation and
gates run in float32, whatever their parameters are stored in.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from .attention import AttentionMask, object_attention

INIT_STD = 0.02


class Linear(nn.Linear):
  """y = x W^T (+ b), in the dtype of W."""

  def __init__(self, d_in: int, d_out: int, bias: bool = False, zero: bool = False):
    self.zero = zero
    super().__init__(d_in, d_out, bias)

  def reset_parameters(self) -> None:
    if self.zero:
      nn.init.zeros_(self.weight)
    else:
      nn.init.normal_(self.weight, std=INIT_STD)
    if self.bias is not None:
      nn.init.zeros_(self.bias)

  def forward(self, x: Tensor) -> Tensor:
    return linear(x.to(self.weight.dtype), self.weight, self.bias)


class RMSNorm(nn.Module):
  """x / rms(x) * weight over the last axis, in float32."""

  def __init__(self, d: int, eps: float = 1e-5):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(d))
    self.eps = eps

  def forward(self, x: Tensor) -> Tensor:
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
    return (y * self.weight.float()).to(x.dtype)


class SwiGLU(nn.Module):
  """The feed-forward of LLaMa 3: (silu(x W1) * x W3) W2, no biases."""

  def __init__(self, d: int, hidden: int):
    super().__init__()
    self.gate = Linear(d, hidden)
    self.up = Linear(d, hidden)
    self.down = Linear(hidden, d)

  def forward(self, x: Tensor) -> Tensor:
    return self.down(silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
  """Multi-head attention with its projections, on queries x and keys from x or a context.

  Args:
    qk_norm: RMSNorm of queries and keys over each head.
    d_context: width of the context, d by default.
    out_bias: whether the last projection has a bias.
  """

  def __init__(
    self,
    d: int,
    heads: int,
    *,
    qk_norm: bool = True,
    d_context: int | None = None,
    out_bias: bool = False,
  ):
    super().__init__()
    d_context = d_context or d
    self.query = Linear(d, d)
    self.key = Linear(d_context, d)
    self.value = Linear(d_context, d)
    self.out = Linear(d, d, bias=out_bias)
    self.query_norm = RMSNorm(d // heads) if qk_norm else None
    self.key_norm = RMSNorm(d // heads) if qk_norm else None
    self.heads = heads

  def forward(
    self, x: Tensor, context: Tensor | None = None, pairs: AttentionMask | None = None
  ) -> Tensor:
    """x [B, N, d], context [B, M, D] (default x) -> [B, N, d]; all pairs by default.

    What may attend to nothing gets exactly zero, with a bias too.
    """
    context = x if context is None else context
    q, k, v = (
      y.unflatten(-1, (self.heads, -1))
      for y in (self.query(x), self.key(context), self.value(context))
    )
    if self.query_norm is not None and self.key_norm is not None:
      q, k = self.query_norm(q), self.key_norm(k)
    q, k, v = (y.transpose(1, 2) for y in (q, k, v))
    y = object_attention(q, k, v, pairs)
    y = self.out(y.transpose(1, 2).flatten(2))
    if pairs is not None and self.out.bias is not None:
      y = torch.where(pairs.reads[..., None], y, 0)
    return y


class TimeEmbedding(nn.Module):
  """Sinusoid -> Linear -> SiLU -> Linear; float32 [B] -> [B, d].

  The sinusoid is [cos, sin] of t * 10000^(-2 i / width), t in 0..1000 (as in Movie Gen, Wan and
  Stable Diffusion).
  """

  def __init__(self, d: int, width: int = 256):
    super().__init__()
    self.hidden = Linear(width, d, bias=True)
    self.out = Linear(d, d, bias=True)
    self.width = width

  def forward(self, t: Tensor) -> Tensor:
    half = self.width // 2
    count = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * count / half)
    waves = torch.cat([angles.cos(), angles.sin()], -1)
    return self.out(silu(self.hidden(waves)))
