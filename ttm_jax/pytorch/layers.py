"""Basic layers of the backbones.

Matrix products run in the dtype of their weights, and inputs are cast to it. Norms, modulation and
gates run in float32, whatever the dtype of their parameters.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ttm_jax.guidance_inputs import RANGES

from .attention import AttentionMask, object_attention

INIT_STD = 0.02


class Linear(nn.Linear):
  """y = x W^T (+ b), in the dtype of W.

  Args:
    d_in, d_out: channels of inputs and outputs.
    bias: whether there is a bias b.
    zero: whether W starts at 0; otherwise it is normal with standard deviation INIT_STD.
  """

  def __init__(self, d_in: int, d_out: int, bias: bool = False, zero: bool = False):
    self.zero = zero
    super().__init__(d_in, d_out, bias)

  def reset_parameters(self) -> None:
    """Initialize the weights as `zero` says, and the bias to 0."""
    if self.zero:
      nn.init.zeros_(self.weight)
    else:
      nn.init.normal_(self.weight, std=INIT_STD)
    if self.bias is not None:
      nn.init.zeros_(self.bias)

  def forward(self, x: Tensor) -> Tensor:
    """Map [..., d_in] to [..., d_out]."""
    return linear(x.to(self.weight.dtype), self.weight, self.bias)


class RMSNorm(nn.Module):
  """x / rms(x) * weight over the last axis, of size d, computed in float32.

  The result has the dtype of x.
  """

  def __init__(self, d: int, eps: float = 1e-5):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(d))
    self.eps = eps

  def forward(self, x: Tensor) -> Tensor:
    """Normalize x [..., d]."""
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
    return (y * self.weight.float()).to(x.dtype)


class SwiGLU(nn.Module):
  """The feed-forward of LLaMa 3: (silu(x W1) * x W3) W2, without biases.

  Args:
    d: channels of inputs and outputs.
    hidden: channels of the hidden layer.
  """

  def __init__(self, d: int, hidden: int):
    super().__init__()
    self.gate = Linear(d, hidden)
    self.up = Linear(d, hidden)
    self.down = Linear(hidden, d)

  def forward(self, x: Tensor) -> Tensor:
    """Map [..., d] to [..., d]."""
    return self.down(silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
  """Multi-head self-attention, or cross-attention to a context, with its projections.

  Args:
    d: channels of the queries and of the output.
    heads: number of heads.
    qk_norm: RMSNorm of queries and keys: 'head' over each head, 'width' over all heads together, or
      None.
    d_context: channels of the context, d by default.
    qkv_bias, out_bias: whether the input projections and the output projection have biases.
    eps: epsilon of the RMSNorms.
  """

  def __init__(
    self,
    d: int,
    heads: int,
    *,
    qk_norm: str | None = 'head',
    d_context: int | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    eps: float = 1e-5,
  ):
    super().__init__()
    d_context = d_context or d
    self.query = Linear(d, d, bias=qkv_bias)
    self.key = Linear(d_context, d, bias=qkv_bias)
    self.value = Linear(d_context, d, bias=qkv_bias)
    self.out = Linear(d, d, bias=out_bias)
    normed = d if qk_norm == 'width' else d // heads
    self.query_norm = RMSNorm(normed, eps) if qk_norm else None
    self.key_norm = RMSNorm(normed, eps) if qk_norm else None
    self.heads, self.qk_norm = heads, qk_norm

  def forward(
    self,
    x: Tensor,
    context: Tensor | None = None,
    pairs: AttentionMask | None = None,
    rotation: tuple[Tensor, Tensor] | None = None,
  ) -> Tensor:
    """Return attention of x to the context, [B, N, d].

    Args:
      x: queries, float [B, N, d].
      context: keys and values, float [B, M, d_context]; None for self-attention.
      pairs: the allowed pairs; None for all. A query without any allowed key gets exactly 0, even
        if there is an output bias.
      rotation: cosine and sine of the rotary position embedding, see `rotate`.
    """
    context = x if context is None else context
    q = self._normed(self.query(x), self.query_norm)
    k = self._normed(self.key(context), self.key_norm)
    v = self.value(context).unflatten(-1, (self.heads, -1))
    if rotation is not None:
      q, k = rotate(q, rotation), rotate(k, rotation)
    q, k, v = (y.transpose(1, 2) for y in (q, k, v))
    y = object_attention(q, k, v, pairs)
    y = self.out(y.transpose(1, 2).flatten(2))
    if pairs is not None and self.out.bias is not None:
      y = torch.where(pairs.reads[..., None], y, 0)
    return y

  def _normed(self, y: Tensor, norm: nn.Module | None) -> Tensor:
    """Normalize y [B, N, d] and split it into heads, in the order that `qk_norm` asks for."""
    if norm is None:
      return y.unflatten(-1, (self.heads, -1))
    if self.qk_norm == 'width':
      return norm(y).unflatten(-1, (self.heads, -1))
    return norm(y.unflatten(-1, (self.heads, -1)))


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
  """Rotate each pair of neighboring channels (2 i, 2 i + 1) by an angle (rotary embedding).

  Args:
    x: [B, N, H, D].
    rotation: cosine and sine of the angles, float32 [B or 1, N, 1, D / 2] each.
  """
  cos, sin = rotation
  even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
  return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


class TimeEmbedding(nn.Module):
  """Sinusoidal embedding -> Linear -> SiLU -> Linear.

  The sinusoidal embedding is [cos, sin] of t * 10000^(-2 i / width), t in 0..1000 (as in Movie Gen,
  Wan and Stable Diffusion).

  Args:
    d: channels of the output.
    width: channels of the sinusoidal embedding.
    scales: whether the embedding of guidance scales is added.
  """

  def __init__(self, d: int, width: int = 256, scales: bool = False):
    super().__init__()
    self.hidden = Linear(width, d, bias=True)
    self.out = Linear(d, d, bias=True)
    self.scales = ScaleEmbedding(d) if scales else None
    self.width = width

  def forward(self, t: Tensor, scales: Tensor | None = None) -> Tensor:
    """Embed times [B] in 0..1000, and guidance scales [B, 2] if the network takes them, as [B, d].

    Raises:
      ValueError: if scales are given to a network that takes none, or are missing.
    """
    half = self.width // 2
    count = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * count / half)
    waves = torch.cat([angles.cos(), angles.sin()], -1)
    return with_scales(self.out(silu(self.hidden(waves))), self.scales, scales)


class ScaleEmbedding(nn.Module):
  """Sinusoids of the guidance scales -> Linear -> SiLU -> Linear.

  Args:
    d: channels of the output.
  """

  WAVES, FASTEST, SLOWEST = 16, 2.0, 0.05

  def __init__(self, d: int):
    super().__init__()
    self.hidden = Linear(2 * self.WAVES * len(RANGES), d, bias=True)
    self.out = Linear(d, d, bias=True, zero=True)

  def forward(self, scales: Tensor) -> Tensor:
    """Map scales, float32 [B, 2], to [B, d]."""
    ratio = math.log(self.SLOWEST / self.FASTEST) / (self.WAVES - 1)
    count = torch.arange(self.WAVES, dtype=torch.float32, device=scales.device)
    angles = scales[..., None] * self.FASTEST * torch.exp(ratio * count)
    waves = torch.cat([angles.cos(), angles.sin()], -1).flatten(1)
    return self.out(silu(self.hidden(waves)))


def with_scales(time: Tensor, embedding: nn.Module | None, scales: Tensor | None) -> Tensor:
  """Return a time embedding [B, ..., d] plus that of guidance scales.

  Args:
    time: float [B, ..., d].
    embedding: a `ScaleEmbedding`, or None if the network takes no scales.
    scales: float32 [B, 2], or None likewise.

  Raises:
    ValueError: if scales are given to a network that takes none, or are missing.
  """
  if (scales is None) != (embedding is None):
    takes = 'takes no' if embedding is None else 'needs'
    raise ValueError(f'the network {takes} guidance scales in its condition')
  if embedding is None or scales is None:
    return time
  added = embedding(scales).to(time.dtype)
  return time + added.reshape(len(added), *[1] * (time.ndim - 2), -1)
